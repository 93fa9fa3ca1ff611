"""GPU slices as the slice planner sees them: MIG instances and MPS shares, who needs some and who sits where.

Units: `memory_units` and `compute_slices` are NVML's (an H100 has 8 and 7, an RTX PRO 6000 has 12 and 4). A place on a
card is a profile and the first memory unit it takes; it takes `Profile.memory_units` of them from there. Nothing here
knows a card's table: all of it comes from what NVML reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from slurmext.model.job import Cap, Job, JobState, Seconds
from slurmext.model.node import NodeState
from slurmext.model.plan import QueueUsage, Reason
from slurmext.model.queue import Queue

WHOLE_MILLI = 1000
"""What a whole GPU counts against a quota; a slice counts its part of it, rounded up."""


class GpuUse(StrEnum):
    """What a GPU is for now. In Slurm's books a placeholder has the MIG and SHARED ones. Nothing acts on UNKNOWN."""

    WHOLE = "whole"
    MIG = "mig"
    SHARED = "shared"
    UNKNOWN = "unknown"


class InstanceState(StrEnum):
    """Who has a MIG instance. FOREIGN: made by somebody else, never touched. UNKNOWN: never touched either."""

    BUSY = "busy"
    RESERVED = "reserved"
    WARM = "warm"
    FOREIGN = "foreign"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A MIG profile as one card reports it. `profile_id` is what NVML's create call takes, `starts` the legal first
    memory units, `most` how many fit on an empty card. `automatic`: a plain one, may be chosen for a need; those with a
    suffix (`+me`, `+gfx`, `-me`) must be asked for by name.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by pydantic, no field

    name: str
    profile_id: int = 0
    memory_units: int
    compute_slices: int
    memory_mib: int = 0
    sm: int = 0
    starts: tuple[int, ...]
    most: int = 1
    automatic: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What a card can be cut into."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    memory_units: int
    compute_slices: int
    profiles: tuple[Profile, ...] = ()

    def profile(self, name: str) -> Profile | None:
        """The profile of that name, None when the card has none."""
        return next((profile for profile in self.profiles if profile.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A MIG instance that exists, or (RESERVED without `uuid`) will: `job` has it, "" when nobody does."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    profile: str
    start: int
    state: InstanceState
    uuid: str = ""
    job: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """An MPS share: at most `percent` of the GPU's SMs and `memory_mib` of its memory."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    job: str
    percent: int
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicedGpu:
    """One GPU of a node's inventory, whole ones included. `geometry` None: it cannot be cut (or nobody knows how).

    `leaving`: it is being cleared to be given back, nothing new goes there. `since_s`: since when it is in this use;
    `empty_s`: since when no job has or awaits a part of it (None: somebody does, or nobody knows).
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    node: str
    uuid: str
    minor: int = 0
    gpu_type: str = "gpu"
    use: GpuUse = GpuUse.WHOLE
    memory_mib: int = 0
    sm: int = 0
    geometry: Geometry | None = None
    instances: tuple[Instance, ...] = ()
    shares: tuple[Share, ...] = ()
    leaving: bool = False
    since_s: Seconds = 0
    empty_s: Seconds | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceNode:
    """A node slice jobs may go to: what Slurm has free there (None: not limited or not known), and how many GPUs of
    each type no job and no placeholder has in Slurm's books. `shut`: none of them can be taken into sliced use now.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    name: str
    state: NodeState = NodeState.UP
    free_cpus: int | None = None
    free_memory_mib: int | None = None
    idle_gpus: Mapping[str, int] = field(default_factory=dict[str, int])
    shut: bool = False


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
class SlicePool:
    """How many GPUs of a type (None: of every type not listed) may be in sliced use now, as policy and calendar say.

    `minimum` are taken as they become idle and kept although nobody wants slices; `maximum` None: no limit.
    `use` is what GPUs that nobody asked for yet are made ready for.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    gpu_type: str | None = None
    minimum: int = 0
    maximum: int | None = None
    use: GpuUse = GpuUse.MIG


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceSettings:
    """Knobs of slice planning. A request older than `hold_after_s` has places held for it; a GPU goes back to whole
    use after `empty_for_s` without a job, at once if a whole-GPU job waits for it and it was taken `keep_for_s` ago.
    A job is moved when what is gained, for `worth_s` seconds, is more than what the move costs; at most `most_moves`.
    `prefer` decides a need that both kinds could meet equally well. The others as in Settings.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    pools: tuple[SlicePool, ...] = ()
    hold_after_s: Seconds = 300
    empty_for_s: Seconds = 600
    keep_for_s: Seconds = 120
    defragment: bool = True
    worth_s: Seconds = 3600
    move_cost_s: Seconds = 60
    most_moves: int = 4
    prefer: GpuUse = GpuUse.MIG
    preemption_budget: int | None = None
    near_end_s: Seconds = 0
    past_factor: float = 0


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
class SliceDemand:
    """How often (`weight`, in any unit) jobs came lately that want `need` and so much else of each node."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    need: SliceNeed
    weight: float = 1
    cpus: int = 0
    memory_per_node_mib: int = 0
    types: tuple[str, ...] = ()
    choice: GpuUse | None = None


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
class SliceSnapshot:
    """Everything `plan_slices()` may look at.

    `whole` are the whole-GPU jobs: they use the same quotas; `beside` is what those that run have on each node besides
    GPUs (CPUs, MiB). `wanted_gpus` is how many GPUs of each type ("": of any) they wait for because none is free,
    `owed` are those of them for whom nothing else is being done. `idle_gpus` of the nodes are those left after
    whole-GPU jobs were planned.
    `taking` are takes under way that no GPU shows yet; `holds` are the last plan's: who has one comes before others.
    `mix` is what came lately (empty: the jobs at hand): what is left free is judged by what it could take of that.
    `past_gpus` is as in Snapshot. A GPU that is not listed, or whose `use` is UNKNOWN, is not planned on.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    version: Literal[1] = 1
    now_s: Seconds = 0
    settings: SliceSettings = SliceSettings()
    nodes: tuple[SliceNode, ...] = ()
    gpus: tuple[SlicedGpu, ...] = ()
    queues: tuple[Queue, ...] = ()
    jobs: tuple[SliceJob, ...] = ()
    whole: tuple[Job, ...] = ()
    beside: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, "tuple[int, int]"])
    wanted_gpus: Mapping[str, int] = field(default_factory=dict[str, int])
    owed: tuple[str, ...] = ()
    taking: tuple[TakeGpu, ...] = ()
    holds: tuple[HoldPlaces, ...] = ()
    mix: tuple[SliceDemand, ...] = ()
    past_gpus: Mapping[str, float] = field(default_factory=dict[str, float])


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
