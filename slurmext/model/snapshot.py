"""Everything `plan()` may look at, frozen. The shape is the stable snapshot file interface, version 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slurmext.model.job import Job, Placement, Seconds
from slurmext.model.node import Node
from slurmext.model.queue import Queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Site-wide planning knobs. `preemption_budget` is how often one job may be evicted (None = no limit);
    a job ending within `near_end_s` is waited for rather than evicted. `fences_stand` says that whoever carries plans
    out keeps their fences until the beneficiary starts; else a plan promises only what holds without them.
    Borrowers leave `headroom_gpus` idle; with `headroom_drainable` GPUs of jobs that reclaim could take count as idle.
    `past_factor` is how much what a queue borrowed lately (the snapshot's `past_gpus`) weighs against
    what it borrows now; 0: not at all.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by pydantic, no field

    requeue_delay_s: Seconds = 121
    grace_s: Seconds = 60
    preemption_budget: int | None = None
    near_end_s: Seconds = 0
    consolidate: bool = True
    fences_stand: bool = False
    headroom_gpus: int = 0
    headroom_drainable: bool = False
    past_factor: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """GPUs kept for `beneficiary` until it starts or gives up; nobody else gets in between."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    beneficiary: str
    placement: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Defragment:
    """A wish that small jobs move together, where nothing else is to be done: a node that becomes wholly free is worth
    its GPUs for `worth_s` seconds, and no more than `most_moves` jobs move.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    worth_s: Seconds = 3600
    most_moves: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One frozen view of cluster, policy and history. `fences` are those standing from earlier plans.

    `removed` are queues that the policy had before, and from when on their jobs must leave. `past_gpus` is how many
    GPUs queues borrowed on average lately, what is longer ago counting less. `defragment` is set when that is due.
    `sliced` is what each user has of GPUs in slices, by queue: `jobs` has it rounded up, as jobs without a place.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    version: Literal[1] = 1
    now_s: Seconds = 0
    settings: Settings = Settings()
    nodes: tuple[Node, ...] = ()
    queues: tuple[Queue, ...] = ()
    jobs: tuple[Job, ...] = ()
    fences: tuple[Fence, ...] = ()
    removed: Mapping[str, Seconds] = field(default_factory=dict[str, Seconds])
    past_gpus: Mapping[str, float] = field(default_factory=dict[str, float])
    sliced: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    defragment: Defragment | None = None
