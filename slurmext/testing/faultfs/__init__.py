"""Faults of file systems for tests: a process killed or failed at its n-th write, sync, rename or link; power cuts.

`build` compiles the library to preload; `Faults` drives it from the process that has it; `power` makes the states a
disk may be in after a power cut out of a recorded run.
"""

from __future__ import annotations

import ctypes
import enum
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from slurmext.errors import SlurmextError

SOURCE = Path(__file__).parent / "faultfs.c"
_FLAGS = ("-shared", "-fPIC", "-O1", "-Wall", "-pthread")


class Mode(enum.IntEnum):
    """What happens at the chosen operation, as in faultfs.c."""

    COUNT = 1
    KILL_BEFORE = 2
    KILL_AFTER = 3
    KILL_HALF = 4
    FAIL_ONCE = 5
    FAIL_ON = 6
    SHORT = 7


def build(folder: Path) -> Path:
    """The library in `folder`, compiled unless it is there for this source. Raises SlurmextError."""
    target = folder / f"faultfs-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}.so"
    if target.exists():
        return target
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise SlurmextError("no C compiler: apt install gcc libc6-dev")
    draft = folder / f".{target.name}.{os.getpid()}"
    command = [compiler, *_FLAGS, "-o", str(draft), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SlurmextError(f"{SOURCE} does not compile: {done.stderr.strip()[:500]}")
    draft.replace(target)
    return target


class Faults:
    """The preloaded library in this process. Raises AttributeError where it is not preloaded."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.faultfs_start.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
        self._library.faultfs_stop.restype = ctypes.c_long
        self._library.faultfs_trace.argtypes = [ctypes.c_char_p]
        self._library.faultfs_mark.argtypes = [ctypes.c_char_p]

    def start(self, root: Path, mode: Mode, point: int = 0, error: int = 0) -> None:
        """Count the operations under `root` from now on; at number `point` do as `mode` says."""
        self._library.faultfs_start(os.fsencode(root), mode, point, error)

    def stop(self) -> int:
        """Count no more; returns how many there were."""
        return int(self._library.faultfs_stop())

    def trace(self, path: Path | None) -> None:
        """Write the operations to a file outside of the root; None ends that."""
        self._library.faultfs_trace(None if path is None else os.fsencode(path))

    def mark(self, text: str) -> None:
        """A note in the trace, in order with the operations."""
        self._library.faultfs_mark(text.encode())
