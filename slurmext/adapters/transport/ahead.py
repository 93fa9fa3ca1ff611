"""Files read ahead by several threads past the page cache, into a few buffers that are used again and again."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

ALIGNMENT: Final = 4096
THREADS: Final = 4
DEPTH: Final = 6
"""Pieces on their way at a time."""

_kept: list[mmap.mmap] = []
_kept_lock: Final = threading.Lock()
_MOST_KEPT: Final = 2 * DEPTH


class Piece:
    """Bytes [offset, offset + length) of a file, or soon."""

    def __init__(self, room: mmap.mmap, offset: int, reading: Future[int]) -> None:
        self._room = room
        self._begin = offset // ALIGNMENT * ALIGNMENT
        self._reading = reading

    def copy(self, offset: int, place: memoryview) -> bool:
        """Have the bytes from `offset` of the file at `place`; False when the file ends before. Raises OSError."""
        at = offset - self._begin
        if self._reading.result() < at + len(place):
            return False
        with memoryview(self._room) as whole:
            place[:] = whole[at : at + len(place)]
        return True

    def release(self) -> None:
        """The bytes are not needed any more."""
        if self._reading.cancel() or self._reading.done():
            self._keep()
        else:
            self._reading.add_done_callback(lambda _reading: self._keep())

    def _keep(self) -> None:
        with _kept_lock:
            if len(_kept) < _MOST_KEPT:
                _kept.append(self._room)


class Landing:
    """As a piece, of bytes that are read to where they belong."""

    def __init__(self, reading: Future[bool]) -> None:
        self._reading = reading

    def copy(self, _offset: int, _place: memoryview) -> bool:
        """Wait until they are there; False when the file ends before. Raises OSError."""
        return self._reading.result()

    def release(self) -> None:
        """They are not needed any more."""
        self._reading.cancel()


class ReadAhead:
    """Reads pieces of at most `most_bytes` in the background, in the order asked for."""

    def __init__(self, most_bytes: int) -> None:
        self._room_bytes = -(-most_bytes // ALIGNMENT) * ALIGNMENT + 2 * ALIGNMENT
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="staging-read")

    def start(self, descriptor: int, offset: int, length: int) -> Piece:
        """Begin to read."""
        room = self._take()
        return Piece(room, offset, self._pool.submit(_read, descriptor, room, offset, length))

    def start_into(self, descriptor: int, offset: int, place: memoryview) -> Landing:
        """Begin to read to `place`, which lies in its page as `offset` in its sector, and touch nothing beside it."""
        return Landing(self._pool.submit(_read_into, descriptor, offset, place))

    def close(self) -> None:
        """Read no more; returns when nothing is being read."""
        self._pool.shutdown(cancel_futures=True)

    def _take(self) -> mmap.mmap:
        with _kept_lock:
            while _kept:
                room = _kept.pop()
                if len(room) >= self._room_bytes:
                    return room
        return mmap.mmap(-1, self._room_bytes)


def bypass_cache(descriptor: int) -> None:
    """Read this file past the page cache, where its file system can."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
    except OSError:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def _read(descriptor: int, room: mmap.mmap, offset: int, length: int) -> int:
    """Bytes read from the sector on in which `offset` lies; fewer than needed at the end of the file."""
    begin = offset // ALIGNMENT * ALIGNMENT
    needed = offset + length - begin
    with memoryview(room) as whole, whole[: -(-needed // ALIGNMENT) * ALIGNMENT] as place:
        return _fill(descriptor, begin, place, needed)


def _read_into(descriptor: int, offset: int, place: memoryview) -> bool:
    """Whether all of `place` was read: whole sectors straight into it, parts of the first and last one by a buffer."""
    end = offset + len(place)
    low = min(-(-offset // ALIGNMENT) * ALIGNMENT, end)
    high = max(low, end // ALIGNMENT * ALIGNMENT)
    with place[low - offset : high - offset] as sectors:
        if _fill(descriptor, low, sectors, len(sectors)) < len(sectors):
            return False
    for begin, until in ((offset, low), (high, end)):
        if begin < until:
            within = begin % ALIGNMENT
            with mmap.mmap(-1, 2 * ALIGNMENT) as room:
                if _read(descriptor, room, begin, until - begin) < within + until - begin:
                    return False
                place[begin - offset : until - offset] = room[within : within + until - begin]
    return True


def _fill(descriptor: int, begin: int, place: memoryview, needed: int) -> int:
    """Bytes read to `place`, until `needed` are there or the file ends."""
    done, direct = 0, True
    while done < needed:
        with place[done:] as rest:
            try:
                count = os.preadv(descriptor, [rest], begin + done)
            except OSError:
                if not direct:
                    raise
                _to_cache(descriptor)  # perhaps another thread did already, while this one was reading
                direct = False
                continue
        if not count:
            break
        done += count
    return done


def _to_cache(descriptor: int) -> None:
    """Read through the page cache after all: a file system may want more than sectors."""
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT)
