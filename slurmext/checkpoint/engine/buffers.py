"""Memory that snapshots are taken into: two buffers, mapped once, in huge pages, pinned where there is a GPU."""

from __future__ import annotations

import ctypes
import mmap
import threading
import time

from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.errors import CheckpointError, bytes_text

MOST = 2
HUGE = 2 << 20
_POPULATE_WRITE = 23  # madvise(2), Linux 5.14: all pages now and not at the first touch
_memcpy = ctypes.CDLL(None).memcpy
_memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
_memcpy.restype = ctypes.c_void_p
_memset = ctypes.CDLL(None).memset
_memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
_memset.restype = ctypes.c_void_p
SHARE = 8 << 20
"""Bytes a thread copies before it asks for more."""
CALL = 448 << 10
"""Bytes in one call of memcpy: below the second-level cache's size the C library has the processor move them by itself,
which on some does not read first what is to be overwritten."""


class Buffer:
    """`capacity` bytes of zeros at `address`, a multiple of HUGE; `view` for reading and writing."""

    def __init__(self, capacity: int, crew: Crew | None = None) -> None:
        self.capacity = max(-(-capacity // HUGE) * HUGE, HUGE)
        try:
            # Private: shared memory gets no huge pages. One more, to begin at the start of one.
            self._map = mmap.mmap(-1, self.capacity + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, MemoryError) as error:
            raise CheckpointError(
                f"no memory for a snapshot of {bytes_text(self.capacity)}: ask for more with --mem (the state's size "
                "once more, twice when saves overlap), or save with wait=True and a smaller state"
            ) from error
        if hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                self._map.madvise(mmap.MADV_HUGEPAGE)
            except OSError:
                pass  # a kernel without huge pages
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._skip = -start % HUGE
        self.view = memoryview(self._map)[self._skip : self._skip + self.capacity]
        self.address = start + self._skip
        self.gaps: tuple[tuple[int, int], ...] = ()
        self._pinned = False
        if crew is not None:
            crew.each(self._populate, range(0, self.capacity, 64 * HUGE))

    def pin(self) -> None:
        """Make copies from a GPU fast."""
        if not self._pinned:
            from slurmext.checkpoint.engine import torch_arrays

            self._pinned = torch_arrays.pin(self.address, self.capacity)

    def zero(self, gaps: tuple[tuple[int, int], ...]) -> None:
        """Fill (offset, size) with zeros, unless that was done: what is between the pieces of a stream."""
        if gaps != self.gaps:
            for at, size in gaps:
                _memset(self.address + at, 0, size)
            self.gaps = gaps

    def free(self) -> None:
        """Before the memory goes: CUDA would go on writing to the pages that it has pinned."""
        if self._pinned:
            from slurmext.checkpoint.engine import torch_arrays

            torch_arrays.unpin(self.address)
            self._pinned = False

    def _populate(self, start: int) -> None:
        size = min(64 * HUGE, self.capacity - start)
        try:
            self._map.madvise(_POPULATE_WRITE, self._skip + start, size)
        except (OSError, ValueError):
            _memset(self.address + start, 0, size)


class BufferPool:
    """At most MOST snapshots at a time: who wants another waits until one is written."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._free: list[Buffer] = []
        self._made = 0
        self._changed = threading.Condition()
        self.peak = 0

    def take(self, size: int) -> tuple[Buffer, float]:
        """A buffer of at least `size` bytes, and the seconds spent waiting for one."""
        started = time.monotonic()
        with self._changed:
            while not self._free and self._made >= MOST:
                self._changed.wait()
            waited_s = time.monotonic() - started
            buffer = self._free.pop() if self._free else None
            self._made += buffer is None
            self.peak = max(self.peak, self._made - len(self._free))
        try:
            if buffer is None or buffer.capacity < size:
                if buffer is not None:
                    buffer.free()
                    del buffer
                buffer = Buffer(size, self._crew)
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify()
            raise
        return buffer, waited_s

    @property
    def full(self) -> bool:
        """Whether `take` would wait."""
        return not self._free and self._made >= MOST

    def give_back(self, buffer: Buffer) -> None:
        """The snapshot in it is written."""
        with self._changed:
            self._free.append(buffer)
            self._changed.notify()

    def close(self) -> None:
        """Give the memory back; `take` gets new."""
        with self._changed:
            for buffer in self._free:
                buffer.free()
            self._made -= len(self._free)
            self._free.clear()

    def prepare(self, size: int, count: int) -> None:
        """Have `count` buffers of that size ready, so that the first saves need not make them."""
        taken = [self.take(size)[0] for _ in range(min(count, MOST))]
        for buffer in taken:
            self.give_back(buffer)


def move(to: int, source: int, size: int) -> None:
    """Copy bytes between addresses; other threads of Python run meanwhile."""
    for at in range(0, size, CALL):
        _memcpy(to + at, source + at, min(CALL, size - at))


def shares_of(parts: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """The same copies (to, from, bytes) in the same order, cut and put together to shares of SHARE bytes."""
    shares: list[list[tuple[int, int, int]]] = [[]]
    room = SHARE
    for to, source, size in parts:
        done = 0
        while done < size:
            count = min(size - done, room)
            shares[-1].append((to + done, source + done, count))
            done += count
            room -= count
            if room == 0:
                shares.append([])
                room = SHARE
    return [share for share in shares if share]
