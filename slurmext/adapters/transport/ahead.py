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


class ReadAhead:
    """Reads pieces of at most `most_bytes` in the background, in the order asked for."""

    def __init__(self, most_bytes: int) -> None:
        self._room_bytes = -(-most_bytes // ALIGNMENT) * ALIGNMENT + 2 * ALIGNMENT
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="staging-read")

    def start(self, descriptor: int, offset: int, length: int) -> Piece:
        """Begin to read."""
        room = self._take()
        return Piece(room, offset, self._pool.submit(_read, descriptor, room, offset, length))

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
    wanted = -(-(offset + length - begin) // ALIGNMENT) * ALIGNMENT
    done, direct = 0, True
    with memoryview(room) as whole:
        while done < offset + length - begin:
            with whole[done:wanted] as place:
                try:
                    count = os.preadv(descriptor, [place], begin + done)
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
