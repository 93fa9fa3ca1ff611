"""A node's GPUs as its driver sees them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuDevice:
    """A GPU. `minor` is the number in /dev/nvidiaN; `mig` says whether it is cut into instances, None: not known."""

    minor: int
    uuid: str
    name: str
    memory_mib: int
    mig: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSample:
    """What a GPU did since it was last asked about: utilisation in percent, mean and highest; memory in use now.

    `index` is its place in the driver's order (by PCI bus id), `pids` are the processes that have it open.
    """

    minor: int
    index: int
    mean_percent: float
    peak_percent: float
    memory_mib: int | None = None
    pids: tuple[int, ...] = ()
