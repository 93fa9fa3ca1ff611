"""GPUs that are cut or shared, and their nodes: no table of cards, all of it comes from what NVML reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from slurmext.model.job import Seconds
from slurmext.model.node import NodeState

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
