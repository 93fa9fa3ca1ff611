"""The state file of a simulated node's GPUs, in the layout of state.h."""

from __future__ import annotations

import ctypes
import mmap
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from slurmext.testing.nvml.build import build
from slurmext.testing.nvml.cards import card_of

if TYPE_CHECKING:
    from collections.abc import Sequence

ENVIRONMENT = "SLURMEXT_SIMULATED_GPUS"
DRIVER = "550.90.07"
WORKS_WHILE_HELD = -1
MAX_GPUS = 64
_MAX_CHANGES = 32
_MIB = 1 << 20
_NAMES = uuid.UUID("8c2f7b1e-6f0f-4a52-9d2b-3f6a0d1c5e70")

GPU_IS_LOST = 15
DRIVER_NOT_LOADED = 9
"""Faults as NVML numbers them (nvmlReturn_t)."""


class _Change(ctypes.Structure):
    _fields_: ClassVar = [("at_us", ctypes.c_uint64), ("percent", ctypes.c_int32), ("unused", ctypes.c_uint32)]


class _Gpu(ctypes.Structure):
    _fields_: ClassVar = [
        ("name", ctypes.c_char * 96),
        ("uuid", ctypes.c_char * 96),
        ("bus_id", ctypes.c_char * 32),
        ("minor", ctypes.c_uint32),
        ("pci_device_id", ctypes.c_uint32),
        ("memory_bytes", ctypes.c_uint64),
        ("used_bytes", ctypes.c_int64),
        ("fault", ctypes.c_int32),
        ("mig_capable", ctypes.c_uint32),
        ("mig_current", ctypes.c_uint32),
        ("mig_pending", ctypes.c_uint32),
        ("changes", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("history", _Change * _MAX_CHANGES),
    ]


class _State(ctypes.Structure):
    _fields_: ClassVar = [
        ("magic", ctypes.c_char * 8),
        ("version", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("gpus", ctypes.c_uint32),
        ("fault", ctypes.c_int32),
        ("delay_ms", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("driver", ctypes.c_char * 80),
        ("cluster", ctypes.c_char * 64),
        ("node", ctypes.c_char * 64),
        ("gpu", _Gpu * MAX_GPUS),
    ]


class SimulatedGpus:
    """The GPUs of one node, shared with every process that loads the simulated driver. Utilisation is in percent.

    A GPU works (100 %) while a process of a job of that node has it, until `set_utilisation` says otherwise.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), ctypes.sizeof(_State))
        self._state: Any = _State.from_buffer(self._map)

    @classmethod
    def create(cls, path: Path, gpu_types: Sequence[str], *, cluster: str = "dev", node: str = "n1") -> Self:
        """Make the file: one GPU for each type, `("h100",) * 8`, with minor numbers from 0."""
        if len(gpu_types) > MAX_GPUS:
            raise ValueError(f"{len(gpu_types)} GPUs: a simulated node has at most {MAX_GPUS}")
        state: Any = _State(magic=b"slxnvml", version=1, size=ctypes.sizeof(_State), gpus=len(gpu_types),
                            driver=DRIVER.encode(), cluster=cluster.encode(), node=node.encode())  # fmt: skip
        for index, gpu_type in enumerate(gpu_types):
            card, gpu = card_of(gpu_type), state.gpu[index]
            gpu.name = card.name.encode()
            gpu.uuid = f"GPU-{uuid.uuid5(_NAMES, f'{cluster}/{node}/{index}')}".encode()
            gpu.bus_id = f"00000000:{0x10 + index:02X}:00.0".encode()
            gpu.minor, gpu.pci_device_id = index, card.pci_device_id
            gpu.memory_bytes, gpu.used_bytes = card.memory_mib * _MIB, -1
            gpu.mig_capable = card.mig
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(state))
        return cls(path)

    def __len__(self) -> int:
        return self._state.gpus

    def uuid(self, index: int) -> str:
        """A GPU's UUID."""
        return self._gpu(index).uuid.decode()

    def set_utilisation(self, percent: int | None, *indices: int) -> None:
        """Let these GPUs (none named: all) work at `percent`; None: 100 while a job has them, else 0."""
        for index in indices or range(len(self)):
            gpu = self._gpu(index)
            change = gpu.history[gpu.changes % _MAX_CHANGES]
            change.at_us = int(time.time() * 1e6)
            change.percent = WORKS_WHILE_HELD if percent is None else percent
            gpu.changes += 1

    def set_memory(self, used_mib: int | None, *indices: int) -> None:
        """Let these GPUs (none named: all) have so much memory in use; None: half of it while a job has them."""
        for index in indices or range(len(self)):
            self._gpu(index).used_bytes = -1 if used_mib is None else used_mib * _MIB

    def set_fault(self, code: int, *indices: int) -> None:
        """Make every call about these GPUs fail so (nvmlReturn_t); none named: the whole driver. 0 mends it."""
        if not indices:
            self._state.fault = code
        for index in indices:
            self._gpu(index).fault = code

    def set_delay(self, milliseconds: int) -> None:
        """Make every call about a GPU take so long."""
        self._state.delay_ms = milliseconds

    def environment(self, folder: Path) -> dict[str, str]:
        """What a process needs to find these GPUs; the driver is compiled into `folder` when it is not there."""
        return {ENVIRONMENT: str(self.path), "LD_LIBRARY_PATH": str(build(folder).parent)}

    def _gpu(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"GPU {index}: {self.path} has {len(self)}")
        return self._state.gpu[index]
