"""A queue of the quota tree. A path is `org/team`; the parent of `org/team` is `org`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from slurmext.model.job import Seconds


class FenceMode(StrEnum):
    """Whether capacity may cross the queue's border: IN = may not borrow from outside, OUT = does not lend outside."""

    NONE = "none"
    IN = "in"
    OUT = "out"
    BOTH = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeQuota:
    """Quota of one GPU type, in whole GPUs. None = no limit."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by pydantic, no field

    guaranteed: int = 0
    reserved: int = 0
    max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UserLimit:
    """Most GPUs one user may hold in the queue. None = no limit."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """`reserved <= guaranteed <= max` whole GPUs; `reserved` is never lent, above `guaranteed` is borrowed.

    `guaranteed` None on a parent means the sum of its children's guarantees (on a leaf: 0); `max` None means no
    limit. `job_sort` is the order inside the queue: a comma list of `priority`, `fifo`, `fair`; ties go by
    `submitted_s`, then `id`.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    path: str
    guaranteed: int | None = None
    reserved: int = 0
    max: int | None = None
    weight: float = 1
    priority: int = 0
    lending_limit: int | None = None
    fence: FenceMode = FenceMode.NONE
    min_runtime_s: Seconds = 0
    preemption_delay_s: Seconds = 0
    job_sort: str = "priority,fifo"
    by_type: Mapping[str, TypeQuota] = field(default_factory=dict[str, TypeQuota])
    users: Mapping[str, UserLimit] = field(default_factory=dict[str, UserLimit])
