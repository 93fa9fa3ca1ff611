"""A queue of the quota tree. A path is `org/team`; the parent of `org/team` is `org`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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


class IdleAction(StrEnum):
    """What happens to a job whose GPUs stay idle: it is requeued, or only if its queue borrows for it."""

    REQUEUE = "requeue"
    BORROWED = "borrowed"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleRule:
    """A job whose GPUs were idle for `after_s` is warned, and leaves `grace_s` later unless they work again.

    Its owner may have it spared for up to `max_extend_s` at a time.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    after_s: Seconds
    grace_s: Seconds = 0
    action: IdleAction = IdleAction.REQUEUE
    max_extend_s: Seconds = 86400


class PreDrain(StrEnum):
    """A borrower that cannot end before the calendar takes its GPUs away: not started, or started and told."""

    REFUSE = "refuse"
    TELL = "tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaChange:
    """The queue's numbers from `at_s` on, all of them, as a calendar says. Units as in Queue."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    at_s: Seconds
    guaranteed: int | None = None
    reserved: int = 0
    max: int | None = None
    lending_limit: int | None = None
    by_type: Mapping[str, TypeQuota] = field(default_factory=dict[str, TypeQuota])


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """`reserved <= guaranteed <= max` whole GPUs; `reserved` is never lent, above `guaranteed` is borrowed.

    `guaranteed` None on a parent means the sum of its children's guarantees (on a leaf: 0); `max` None means no
    limit. `job_sort` is the order inside the queue: a comma list of `priority`, `fifo`, `fair`; ties go by
    `submitted_s`, then `id`.

    `users` and `groups` limit what a user, or all members of a Unix group together, hold in the queue and below it;
    `each_user_max` does for every user who is not listed. `changes` are the calendar's next ones, soonest first;
    `pre_drain` is what they mean for this queue's borrowers. From
    `cut_s` on, what is used above `max` must leave (None: it may end by itself).
    With `shares_guarantee` its jobs use its parent's guarantee as their own.
    `idle` is about this queue's own jobs.
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
    groups: Mapping[str, UserLimit] = field(default_factory=dict[str, UserLimit])
    each_user_max: int | None = None
    changes: tuple[QuotaChange, ...] = ()
    cut_s: Seconds | None = None
    pre_drain: PreDrain = PreDrain.REFUSE
    idle: IdleRule | None = None
    shares_guarantee: bool = False

    def changed(self, change: QuotaChange) -> Queue:
        """The queue with the numbers of `change`."""
        return replace(
            self,
            guaranteed=change.guaranteed,
            reserved=change.reserved,
            max=change.max,
            lending_limit=change.lending_limit,
            by_type=change.by_type,
        )
