"""What a driver says of a node's GPUs when they are to be cut: cards, MIG instances, processes, samples."""

from __future__ import annotations

from dataclasses import dataclass

from slurmext.model.slicing import Geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCard:
    """A GPU. `minor` is the number in /dev/nvidiaN, `index` the driver's (by PCI bus id), `sm` 0 when not told.

    `mig` and `mig_pending`: whether it is in MIG mode and will be after a reset; both None where it cannot be.
    `geometry` is what it can be cut into, None when it cannot or when nobody knows (Ampere tells only in MIG mode).
    """

    uuid: str
    minor: int
    index: int
    name: str
    memory_mib: int
    sm: int = 0
    mig: bool | None = None
    mig_pending: bool | None = None
    geometry: Geometry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MigInstance:
    """A GPU instance on GPU `gpu` and its compute instance. `ci` None (and `uuid` empty): it has none, or not a sole
    one that fills it; such an instance cannot be used. `gi` and `ci` are used anew, `uuid` never is.
    """

    gpu: str
    profile: str
    profile_id: int
    start: int
    gi: int
    ci: int | None = None
    uuid: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process on a GPU or instance; `memory_mib` None when the driver does not tell."""

    pid: int
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceUse:
    """What a slice is used for at the moment; None where the card does not tell."""

    memory_mib: int | None = None
    sm_pct: float | None = None
