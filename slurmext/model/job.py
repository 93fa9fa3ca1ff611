"""A job as the planner sees it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Seconds = int | float
"""Seconds of the snapshot's one clock."""


class JobState(StrEnum):
    """What a job is doing. No rule acts on UNKNOWN.

    A job that was released but that Slurm has not started yet is RUNNING here with the placement it was released
    to: its GPUs are spoken for. COMPLETING still holds its GPUs but gives them back without being asked.
    """

    PENDING = "pending"
    RUNNING = "running"
    COMPLETING = "completing"
    SUSPENDED = "suspended"
    UNKNOWN = "unknown"


HOLDING = frozenset({JobState.RUNNING, JobState.COMPLETING, JobState.SUSPENDED, JobState.UNKNOWN})
"""States in which a job's placement is not free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGpus:
    """`gpus` whole GPUs on one node."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by pydantic, no field

    node: str
    gpus: int


Placement = tuple[NodeGpus, ...]


class CapKind(StrEnum):
    """Whose cap it is: a job array's own (`--array=0-7%2`), or a limit of Slurm's (a QOS, an account, licenses)."""

    ARRAY = "array"
    SLURM = "slurm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """Of the jobs that have a cap of this `name`, Slurm lets at most `most` run at a time; releasing more is no use.

    A job that completes counts no more, though it still has its GPUs.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    name: str
    most: int
    kind: CapKind = CapKind.ARRAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """`tasks` x `gpus_per_task` whole GPUs; a task's GPUs are on one node.

    `min_tasks` < `tasks` makes the job elastic; None means `tasks` (a gang). `types` lists the GPU types it accepts,
    in order of preference; empty = any. `checkpoint_s` is the time of the last confirmed checkpoint (None: none).
    `eligible_s` in the future (a begin time, the requeue delay) or `blocked` (a dependency, a user's own hold) keeps
    a pending job out of admission. `evicting_for` names the beneficiary while the job's eviction is under way ("" when
    nobody in particular gains). `groups` are the user's Unix groups that some limit names. `idle_since_s` is since when
    all its GPUs have been idle (None: they work, or nobody knows), `keep_until_s` until when its owner asked to be
    spared for that. Of the jobs that share one of its `caps`, Slurm runs only so many at a time. It rather runs
    on nodes of `warm`, which hold its models, than on others that are as good.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    id: str
    queue: str
    state: JobState
    user: str = ""
    gpus_per_task: int = 1
    tasks: int = 1
    min_tasks: int | None = None
    tasks_per_node: int | None = None
    priority: int = 0
    preemptible: bool = True
    requeue: bool = True
    types: tuple[str, ...] = ()
    submitted_s: Seconds = 0
    started_s: Seconds | None = None
    time_limit_s: Seconds | None = None
    checkpoint_s: Seconds | None = None
    preempted: int = 0
    model: str | None = None
    placement: Placement = ()
    eligible_s: Seconds | None = None
    blocked: str | None = None
    evicting_for: str | None = None
    groups: tuple[str, ...] = ()
    idle_since_s: Seconds | None = None
    keep_until_s: Seconds | None = None
    caps: tuple[Cap, ...] = ()
    warm: tuple[str, ...] = ()

    @property
    def gpus(self) -> int:
        """GPUs of the whole job when all its tasks run."""
        return self.tasks * self.gpus_per_task

    @property
    def least_tasks(self) -> int:
        """Fewest tasks the job runs with."""
        return self.tasks if self.min_tasks is None else self.min_tasks

    @property
    def placed_gpus(self) -> int:
        """GPUs the job holds now."""
        return sum(part.gpus for part in self.placement)
