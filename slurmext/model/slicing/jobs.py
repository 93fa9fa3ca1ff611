"""Jobs of slices: what they need, where they sit, and how often such come."""

from __future__ import annotations

from dataclasses import dataclass

from slurmext.model.job import Cap, JobState, Seconds
from slurmext.model.slicing.cards import GpuUse


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceNeed:
    """What a job wants on each of `nodes` nodes: `per_node` times a MIG profile, or an MPS share (`share_pct` with
    `memory_mib`), or (both None) whatever has `memory_mib` of memory and `compute_pct` of a GPU's SMs.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    profile: str | None = None
    memory_mib: int | None = None
    compute_pct: int | None = None
    share_pct: int | None = None
    per_node: int = 1
    nodes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePlace:
    """One slice of a job: on GPU `gpu` (UUID) of `node` a MIG `profile` at `start`, or `share_pct` and `memory_mib`."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    node: str
    gpu: str
    profile: str | None = None
    start: int | None = None
    share_pct: int | None = None
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceJob:
    """A job of slices. Fields that Job has too mean the same here.

    `places` are those reserved for it or, once it runs, those it sits on; a pending job with places has its
    reservation and is not planned again. `cpus` and `memory_per_node_mib` are what it takes of each node. `candidates`
    are the only nodes it may use (empty: any). `movable`: it consented to being saved and requeued to another place.
    `choice`: its owner lets a need be met by `mig` or `shared` only.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    id: str
    queue: str
    need: SliceNeed
    state: JobState = JobState.PENDING
    user: str = ""
    groups: tuple[str, ...] = ()
    priority: int = 0
    submitted_s: Seconds = 0
    started_s: Seconds | None = None
    time_limit_s: Seconds | None = None
    checkpoint_s: Seconds | None = None
    eligible_s: Seconds | None = None
    blocked: str | None = None
    preemptible: bool = True
    requeue: bool = True
    preempted: int = 0
    evicting_for: str | None = None
    movable: bool = False
    types: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    cpus: int = 0
    memory_per_node_mib: int = 0
    choice: GpuUse | None = None
    places: tuple[SlicePlace, ...] = ()
    caps: tuple[Cap, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceDemand:
    """How often (`weight`, in any unit) jobs came lately that want `need` and so much else of each node."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    need: SliceNeed
    weight: float = 1
    cpus: int = 0
    memory_per_node_mib: int = 0
    types: tuple[str, ...] = ()
    choice: GpuUse | None = None
