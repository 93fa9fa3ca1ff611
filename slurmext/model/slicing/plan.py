"""What the slice planner decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slurmext.model.plan import QueueUsage, Reason
from slurmext.model.slicing.cards import GpuUse
from slurmext.model.slicing.jobs import SlicePlace


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeGpu:
    """Turn an idle GPU of this type on the node to `use`; `gpu` names one that is already held and empty. `job` is who
    waits for it, "" when the policy wants it so.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    node: str
    gpu_type: str
    use: GpuUse
    gpu: str = ""
    job: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldPlaces:
    """Places, free or not yet, that nobody else gets because `job` waits for them. `promised`: others left for it, so
    it is asked before everybody else until it starts.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    job: str
    places: tuple[SlicePlace, ...]
    promised: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Places for a job, all it needs. `why` is one line for its owner: what a need was turned into, and why."""

    job: str
    places: tuple[SlicePlace, ...]
    queue_usage: QueueUsage
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeWarm:
    """Destroy an instance that nobody has, before the reservation for `job` that needs its units ("": nobody waits)."""

    node: str
    gpu: str
    profile: str
    start: int
    uuid: str = ""
    job: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnGpu:
    """Give an empty GPU back to whole use."""

    node: str
    gpu: str
    gpu_type: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceMove:
    """Checkpoint-requeue a job that consented, for which there is room at `target`. Gain and cost in GPU seconds."""

    job: str
    source: tuple[SlicePlace, ...]
    target: tuple[SlicePlace, ...]
    beneficiary: str
    gain_gpu_s: float = 0
    cost_gpu_s: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceEvict:
    """Take back what `job` borrowed: it saves and is requeued so that `beneficiary` fits. `lost_gpu_s` as in Evict.
    `gpus`: how many whole GPUs it has, 0 for a job of slices.
    """

    job: str
    beneficiary: str
    reason: Reason
    lost_gpu_s: float = 0
    gpus: int = 0
    from_queue: str = ""
    to_queue: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicePlan:
    """What to do now about slices. `reasons` has every job still pending without a reservation, once; `details` the
    numbers or names that go with the reason, in one line, where there are any, and `counts` what each would count
    against quotas, in GPUs.
    """

    version: Literal[1] = 1
    reserve: tuple[Reserve, ...] = ()
    free_warm: tuple[FreeWarm, ...] = ()
    take_gpu: tuple[TakeGpu, ...] = ()
    return_gpu: tuple[ReturnGpu, ...] = ()
    move: tuple[SliceMove, ...] = ()
    evict: tuple[SliceEvict, ...] = ()
    hold: tuple[HoldPlaces, ...] = ()
    reasons: Mapping[str, Reason] = field(default_factory=dict[str, Reason])
    details: Mapping[str, str] = field(default_factory=dict[str, str])
    counts: Mapping[str, float] = field(default_factory=dict[str, float])
