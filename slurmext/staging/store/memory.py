"""Pages of a staged file: mapped for receiving, faulted in ahead of the writer, taken over from a file given up."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

_POPULATE_WRITE: Final = 23  # MADV_POPULATE_WRITE, madvise(2), since Linux 5.14
_STEP: Final = 32 << 20
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def map_file(descriptor: int, size: int) -> mmap.mmap | None:
    """A writable mapping of a file of `size` bytes; None of an empty one."""
    return mmap.mmap(descriptor, size) if size else None


def populate(mapping: mmap.mmap, begin: int, end: int) -> bool:
    """Fault pages in for writing. False when there is no room; True also where the kernel cannot do it ahead."""
    # mmap.madvise would hold the interpreter for as long as it takes.
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    begin -= begin % mmap.PAGESIZE
    if _libc.madvise(address + begin, end - begin, _POPULATE_WRITE) == 0:
        return True
    return ctypes.get_errno() not in {errno.ENOMEM, errno.EFAULT, errno.ENOSPC}


class Prefault:
    """Faults files in one after the other in the background, ahead of what is written to them."""

    def __init__(self, mappings: Sequence[mmap.mmap], *, on_full: Callable[[], None]) -> None:
        self._mappings = mappings
        self._on_full = on_full
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefault", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait until no page is touched any more."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        for mapping in self._mappings:
            for begin in range(0, len(mapping), _STEP):
                if self._stop.is_set():
                    return
                if not populate(mapping, begin, min(begin + _STEP, len(mapping))):
                    self._on_full()
                    return


def held_by_others(descriptor: int) -> bool:
    """Whether anyone else has this file open or mapped. A write lease is granted to a sole holder only (fcntl(2))."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False


def pages_resident(descriptor: int) -> int:
    """Bytes a file takes."""
    return os.fstat(descriptor).st_blocks * 512
