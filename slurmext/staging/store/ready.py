"""Which chunks are good: a byte for each in a file beside them, 1 = received and checked.

In memory (tmpfs) the file is mapped and a byte is set after its chunk was checked: a killed agent finds all it had, a
reboot takes both away together. On disk a byte may not outlive its chunk through a power cut, so the file is written
only after the chunks were flushed; what was not flushed is fetched again.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_HEAD: Final = struct.Struct("<8sI32s")
_MAGIC: Final = b"sxready1"
HEAD_BYTES: Final = 64


class ReadyMap:
    """The bytes of `count` chunks of the model with this fingerprint."""

    def __init__(self, path: Path, count: int, fingerprint: str, *, mapped: bool) -> None:
        self._path = path
        self._count = count
        self._head = _HEAD.pack(_MAGIC, count, bytes.fromhex(fingerprint)).ljust(HEAD_BYTES, b"\0")
        self._mapped = mapped
        if mapped:
            self._bytes = self._map()
        else:
            self._bytes = bytearray(self._read())
        self.ready = sum(self._bytes[HEAD_BYTES : HEAD_BYTES + count])
        """How many chunks are good."""

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> bool:
        return self._bytes[HEAD_BYTES + index] == 1

    def set(self, index: int) -> bool:
        """Note that a chunk is good; False when it was already."""
        if self._bytes[HEAD_BYTES + index]:
            return False
        self._bytes[HEAD_BYTES + index] = 1
        self.ready += 1
        return True

    def clear(self, indices: Iterable[int]) -> None:
        """Note that these chunks are not good."""
        for index in indices:
            if self._bytes[HEAD_BYTES + index]:
                self._bytes[HEAD_BYTES + index] = 0
                self.ready -= 1

    def snapshot(self) -> bytes:
        """A byte for each chunk."""
        return bytes(self._bytes[HEAD_BYTES : HEAD_BYTES + self._count])

    def missing(self) -> list[int]:
        """Chunks that are not good, ascending."""
        held = self.snapshot()
        found: list[int] = []
        at = held.find(0)
        while at >= 0:
            found.append(at)
            at = held.find(0, at + 1)
        return found

    def save(self, state: bytes) -> None:
        """Write `state` (what was ready before the chunks were flushed) so that it survives a power cut."""
        if self._mapped:
            return
        draft = self._path.with_name(f".{self._path.name}.new")
        content = self._head + state
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content + struct.pack("<I", zlib.crc32(content)))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        _sync_directory(self._path.parent)

    def close(self) -> None:
        """Let go of the file."""
        if isinstance(self._bytes, mmap.mmap):
            self._bytes.close()

    def _map(self) -> mmap.mmap:
        size = HEAD_BYTES + self._count
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            if os.fstat(descriptor).st_size != size or os.pread(descriptor, HEAD_BYTES, 0) != self._head:
                os.ftruncate(descriptor, 0)  # of something else or half made: nothing is known to be good
                os.posix_fallocate(descriptor, 0, size)
                os.pwrite(descriptor, self._head, 0)
            return mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def _read(self) -> bytes:
        try:
            content = self._path.read_bytes()
        except OSError:
            content = b""
        body, crc = content[:-4], content[-4:]
        whole = len(body) == HEAD_BYTES + self._count and body[:HEAD_BYTES] == self._head
        if whole and crc == struct.pack("<I", zlib.crc32(body)) and not set(body[HEAD_BYTES:]) - {0, 1}:
            return body
        return self._head + bytes(self._count)


def read_ready(path: Path, count: int, fingerprint: str) -> bytes:
    """A byte for each chunk, as a reader of a staged model sees it (the loader); zeros where nothing is known."""
    content = path.read_bytes()
    head = _HEAD.pack(_MAGIC, count, bytes.fromhex(fingerprint))
    if not content.startswith(head) or len(content) < HEAD_BYTES + count:
        return bytes(count)
    return content[HEAD_BYTES : HEAD_BYTES + count]


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
