"""GPU memory of a program: the driver moves it into the program's own memory and back (cuCheckpointProcess*, r570 on).

After `suspend` the program holds no GPU, and CRIU can save it. Only a driver that has these calls is asked; without
it a program that uses a GPU is refused.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from slurmext.checkpoint.engine.errors import CheckpointError

LOCK_TIMEOUT_MS = 20_000
_CALLS = ("Lock", "Checkpoint", "Restore", "Unlock")
_RUNNING, _LOCKED, _CHECKPOINTED = 0, 1, 2
_NOT_SUPPORTED = 801


class GpuStateError(CheckpointError):
    """The driver could not save or bring back a program's GPU memory."""


class _LockArguments(ctypes.Structure):
    _fields_ = (("timeout_ms", ctypes.c_uint), ("reserved0", ctypes.c_uint), ("reserved1", ctypes.c_uint64 * 7))


def users(pids: Iterable[int], proc: str = "/proc") -> list[int]:
    """Those of the processes that have a GPU's device file open or the CUDA driver's library loaded."""
    found = list[int]()
    for pid in pids:
        try:
            with open(f"{proc}/{pid}/maps", encoding="utf-8", errors="replace") as maps:  # noqa: PTH123 - many
                uses = any("/libcuda.so" in line or "/dev/nvidia" in line for line in maps)
            names = os.listdir(f"{proc}/{pid}/fd")
        except OSError:
            continue
        uses = uses or any(_link(f"{proc}/{pid}/fd/{name}").startswith("/dev/nvidia") for name in names)
        if uses:
            found.append(pid)
    return found


class Driver:
    """The CUDA driver's calls. Raises GpuStateError where there is none, or one that does not have them."""

    def __init__(self, library: str = "libcuda.so.1") -> None:
        try:
            self._library = ctypes.CDLL(library)
            for call in _CALLS:
                getattr(self._library, f"cuCheckpointProcess{call}")
        except OSError as error:
            raise GpuStateError(f"the program uses a GPU, and {library} cannot be loaded here: {error}") from error
        except AttributeError as error:
            raise GpuStateError(
                "the program uses a GPU, and this driver cannot save GPU memory: it needs NVIDIA driver 570 or later"
            ) from error

    def suspend(self, pids: Iterable[int]) -> None:
        """Move the GPU memory of these processes into their own; undone for all when one fails."""
        done = list[int]()
        try:
            for pid in pids:
                done.append(pid)
                arguments = _LockArguments(LOCK_TIMEOUT_MS, 0)
                self._call("Lock", pid, ctypes.byref(arguments))
                self._call("Checkpoint", pid, None)
        except GpuStateError:
            self.resume(done, quietly=True)
            raise

    def resume(self, pids: Iterable[int], *, quietly: bool = False) -> None:
        """Bring the GPU memory back and let the processes go on."""
        for pid in pids:
            for call in ("Restore", "Unlock"):
                try:
                    self._call(call, pid, None)
                except GpuStateError:
                    if not quietly:
                        raise

    def _call(self, name: str, pid: int, arguments: object) -> None:
        code = getattr(self._library, f"cuCheckpointProcess{name}")(ctypes.c_int(pid), arguments)
        if code:
            why = "it shares GPU memory with other processes (NCCL, MPS, IPC)" if code == _NOT_SUPPORTED else "refused"
            raise GpuStateError(f"GPU memory of process {pid}: cuCheckpointProcess{name} says {code}: {why}")


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
