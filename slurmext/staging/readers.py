"""Reading files from disk as fast as it gives: several threads, past the page cache, into memory that is kept.

A buffered read copies every byte once more and takes a core for a gigabyte per second; O_DIRECT takes none. The memory
mirrors the files from their first byte on; where nothing is read, it takes no room.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

ALIGNMENT: Final = 4096
BLOCK_BYTES: Final = 8 << 20
THREADS: Final = 4
_NO_RESERVE: Final = 0x4000  # MAP_NORESERVE


class Buffer:
    """Anonymous memory for files, one after the other, each aligned as O_DIRECT wants it.

    Huge pages are left to the system's own choice: to ask for them makes the kernel put them together, and a virtual
    machine fetch them from its host, which can take longer than the reading.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.offsets: list[int] = []
        at = 0
        for size in sizes:
            self.offsets.append(at)
            at += -(-size // ALIGNMENT) * ALIGNMENT + ALIGNMENT
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        self.mapping = mmap.mmap(-1, max(at, ALIGNMENT), flags=flags)
        self.view = memoryview(self.mapping)

    def file(self, index: int, size: int) -> memoryview:
        """The bytes of a file."""
        return self.view[self.offsets[index] : self.offsets[index] + size]


class Reading:
    """Reads parts of files in the background, in the order given; `wait` for the one that is needed.

    `wanted` are (file, begin, end) in bytes; None reads everything.
    """

    def __init__(
        self, paths: Sequence[Path], wanted: Iterable[tuple[int, int, int]] | None = None, *, threads: int = THREADS
    ) -> None:
        self._descriptors: list[int] = []
        try:
            for path in paths:
                self._descriptors.append(_open(path))
            self.sizes = [os.fstat(descriptor).st_size for descriptor in self._descriptors]
        except BaseException:
            self._release()
            raise
        self.buffer = Buffer(self.sizes)
        """Where the bytes are; `buffer.file(index, sizes[index])` is a file."""
        self.read_bytes = 0
        """Bytes read so far."""
        self._blocks = _blocks(self.sizes, wanted)
        self._left = set(self._blocks)
        self._queue = iter(self._blocks.items())
        self._news = threading.Condition()
        self._failed: OSError | None = None
        self._stopped = False
        self._running = max(1, min(threads, len(self._blocks)))
        for number in range(self._running):
            threading.Thread(target=self._run, name=f"load-{number}", daemon=True).start()

    def wait(self, file: int, begin: int, end: int) -> None:
        """Until these bytes are there. Raises OSError."""
        needed = {(file, number) for number in range(begin // BLOCK_BYTES, -(-end // BLOCK_BYTES))}
        with self._news:
            self._news.wait_for(lambda: self._failed is not None or self._left.isdisjoint(needed))
            if self._failed is not None:
                raise self._failed

    def finish(self) -> None:
        """Until everything is there. Raises OSError."""
        with self._news:
            self._news.wait_for(lambda: self._failed is not None or not self._left)
            if self._failed is not None:
                raise self._failed

    def stop(self) -> None:
        """Read no more."""
        with self._news:
            self._stopped = True

    def _run(self) -> None:
        try:
            while (block := self._next()) is not None:
                (file, number), (begin, end) = block
                count = self._read(file, begin, end)
                with self._news:
                    self.read_bytes += count
                    self._left.discard((file, number))
                    self._news.notify_all()
        except OSError as error:
            with self._news:
                self._failed = self._failed or error
                self._news.notify_all()
        finally:
            with self._news:
                self._running -= 1
                last = not self._running
            if last:
                self._release()

    def _next(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        with self._news:
            return None if self._stopped or self._failed is not None else next(self._queue, None)

    def _read(self, file: int, begin: int, end: int) -> int:
        descriptor, at = self._descriptors[file], self.buffer.offsets[file]
        done = begin
        while done < end:
            # Whole sectors are asked for; the last ones end with the file.
            most = -(-(end - done) // ALIGNMENT) * ALIGNMENT
            count = os.preadv(descriptor, [self.buffer.view[at + done : at + done + most]], done)
            if not count:
                raise OSError(errno.EIO, f"a file became shorter than {self.sizes[file]} bytes while it was read")
            done += count
        return done - begin

    def _release(self) -> None:
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)


def _blocks(
    sizes: Sequence[int], wanted: Iterable[tuple[int, int, int]] | None
) -> dict[tuple[int, int], tuple[int, int]]:
    """(file, number of the block) -> the bytes [begin, end) of the file to read there, in the order of first need."""
    if wanted is None:
        wanted = [(file, 0, size) for file, size in enumerate(sizes)]
    blocks: dict[tuple[int, int], tuple[int, int]] = {}
    for file, begin, end in wanted:
        for number in range(begin // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
            low = max(begin, number * BLOCK_BYTES) // ALIGNMENT * ALIGNMENT
            high = min(end, (number + 1) * BLOCK_BYTES)
            known = blocks.get((file, number), (low, high))
            blocks[file, number] = min(low, known[0]), max(high, known[1])
    return blocks


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without O_DIRECT, as tmpfs
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
