"""Records the state store keeps of GPU slices. Times are Unix seconds, memory is MiB."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from slurmext.model.slicing import GpuUse
from slurmext.model.state import JobKey


class SliceState(StrEnum):
    """Where a job's slice stands. RESERVED is written before the agent is told; the last three are final.

    READY: the agent of its node has the reservation. LIVE: the job has it.
    """

    RESERVED = "reserved"
    READY = "ready"
    LIVE = "live"
    FREED = "freed"
    MISSED = "missed"
    WITHDRAWN = "withdrawn"

    @property
    def final(self) -> bool:
        """Nothing more happens to it."""
        return self in _FINAL


_FINAL = frozenset({SliceState.FREED, SliceState.MISSED, SliceState.WITHDRAWN})
OPEN_SLICES = (SliceState.RESERVED, SliceState.READY, SliceState.LIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRecord:
    """One slice of a job, from its reservation to its end. `reservation` names all slices of one run of the job.

    `gpu` is the card's UUID, `uuid` that of the instance once it is made. `milli` is what it counts against quotas,
    in thousandths of a GPU; `why` is what a need was turned into, or what went wrong. `id` 0: not stored yet.
    """

    id: int = 0
    reservation: str
    job: JobKey
    user: str = ""
    queue: str = ""
    node: str
    gpu: str
    gpu_type: str = "gpu"
    profile: str | None = None
    profile_id: int | None = None
    start: int | None = None
    share_pct: int | None = None
    memory_mib: int | None = None
    milli: int = 0
    state: SliceState = SliceState.RESERVED
    uuid: str = ""
    why: str = ""
    made_ms: float | None = None
    created_s: float = 0
    changed_s: float = 0
    live_s: float | None = None
    ended_s: float | None = None


class HoldState(StrEnum):
    """Where a GPU taken out of whole use stands. INTENT is written before Slurm is asked; ENDED is final.

    SUBMITTED: its placeholder job waits or starts. HELD: it is known which GPU that got. CLEARING: the agent was
    told to give it back. LEAVING: the placeholder was told to end.
    """

    INTENT = "intent"
    SUBMITTED = "submitted"
    HELD = "held"
    CLEARING = "clearing"
    LEAVING = "leaving"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHold:
    """A GPU that a placeholder job (`job_id`, Slurm's) holds in Slurm's books while it is in sliced or shared use.

    `gpu` is its UUID, "" until it is known. `for_job` is who waited for it ("": the policy wanted it).
    """

    id: int = 0
    node: str
    gpu_type: str = "gpu"
    use: GpuUse = GpuUse.MIG
    state: HoldState = HoldState.INTENT
    job_id: str = ""
    gpu: str = ""
    for_job: str = ""
    why: str = ""
    created_s: float = 0
    changed_s: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRecord:
    """A GPU as its node's agent last described it. `detail` has its geometry, instances and shares (JSON)."""

    node: str
    uuid: str
    minor: int = 0
    name: str = ""
    memory_mib: int = 0
    sm: int = 0
    mig_capable: bool = False
    use: GpuUse = GpuUse.UNKNOWN
    detail: Mapping[str, object] = field(default_factory=dict[str, object])
    at_s: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceSample:
    """What a job used of its slices on one node so far: `memory_mib` is its limit there, SM use is in percent of the
    slice. None: not measured. `oom`: it ran out of GPU memory.
    """

    job: JobKey
    node: str
    at_s: float
    memory_mib: int | None = None
    memory_peak_mib: int | None = None
    sm_mean_pct: float | None = None
    sm_peak_pct: float | None = None
    samples: int = 0
    oom: bool = False
