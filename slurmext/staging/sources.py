"""Where the bytes of a model's safetensors files come from in a job: mapped memory, files that are arriving, a disk."""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from slurmext.staging.errors import BadModel, NotStaged
from slurmext.staging.manifest import parse_manifest
from slurmext.staging.names import OWN
from slurmext.staging.places import Place, in_memory
from slurmext.staging.readers import Reading
from slurmext.staging.safetensors import Header, TensorEntry, read_header
from slurmext.staging.shards import Shard

_HEAD_BYTES: Final = 64  # slurmext.staging.store.ready
_KNOWN: Final = slice(12, 44)  # there: the manifest's fingerprint
_POLL_S: Final = 0.002
_SLOW_POLL_S: Final = 0.02


class Stalled(NotStaged):
    """Nothing more arrived, or the model was evicted, while it was waited for."""


@dataclass(frozen=True, slots=True)
class Part:
    """A tensor of one of the files, and which part of it is wanted: (dimension, begin, end), None for all."""

    file: int
    entry: TensorEntry
    cut: tuple[int, int, int] | None

    @property
    def extent(self) -> tuple[int, int, int]:
        """(file, begin, end) of the bytes that are needed."""
        entry = self.entry
        if self.cut is None or self.cut[0]:
            return self.file, entry.begin, entry.end
        row = (entry.end - entry.begin) // max(1, entry.shape[0])
        return self.file, entry.begin + self.cut[1] * row, entry.begin + self.cut[2] * row


class Source(Protocol):
    """Files in memory, or on their way there. `views` has them whole; only what was waited for may be looked at."""

    @property
    def views(self) -> Sequence[memoryview]: ...
    def wait(self, file: int, begin: int, end: int) -> None:
        """Until these bytes are there. Raises Stalled, OSError."""
        ...


class Mapped:
    """Files in memory, mapped."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.views = [_mapped(path) for path in paths]

    def wait(self, file: int, begin: int, end: int) -> None:
        pass


class Arriving:
    """A staged model that an agent is still receiving; gives up when nothing arrives for `wait_s`.

    In memory the agent changes the file `ready` as chunks arrive; on disk it puts a new one in its place now and then.
    """

    def __init__(self, directory: Path, paths: Sequence[Path], *, wait_s: float) -> None:
        self._own = directory / OWN
        self._wait_s = wait_s
        self._paths = paths
        try:
            raw = (self._own / "manifest").read_bytes()
            self._manifest = parse_manifest(raw)
            self._known = hashlib.sha256(raw).digest()
            self._inode, self._ready = self._now_ready()
            self.views = [_mapped(path) for path in paths]
            self._inodes = [path.stat().st_ino for path in paths]
        except (OSError, ValueError) as error:
            raise Stalled(f"{directory}: {error}") from error
        numbers = {entry.name: number for number, entry in enumerate(self._manifest.files)}
        self._numbers = [numbers[path.relative_to(directory).as_posix()] for path in paths]
        self._count, self._progress_s = 0, time.monotonic()

    def wait(self, file: int, begin: int, end: int) -> None:
        # Whole pages: what a job writes to a tensor makes copies of its pages, which would keep what was not there yet.
        number, page = self._numbers[file], mmap.PAGESIZE
        until = min(self._manifest.files[number].size, -(-end // page) * page)
        chunks = self._manifest.chunks_of(number, begin // page * page, until)
        low, high = _HEAD_BYTES + chunks.start, _HEAD_BYTES + chunks.stop
        nap_s = _POLL_S
        while self._ready[low:high].count(1) != high - low:
            self._check()
            time.sleep(nap_s)
            nap_s = min(2 * nap_s, _SLOW_POLL_S)

    def _check(self) -> None:
        try:
            inode, ready = self._now_ready(self._inode)
            if inode != self._inode and self._inodes != [path.stat().st_ino for path in self._paths]:
                raise FileNotFoundError  # it was evicted and has come again, elsewhere
        except (OSError, ValueError):
            raise Stalled(f"{self._own.parent} was evicted while it was waited for") from None
        self._inode, self._ready = inode, ready
        now_s, count = time.monotonic(), self._ready[_HEAD_BYTES:].count(1)
        if count != self._count:
            self._count, self._progress_s = count, now_s
        if now_s - self._progress_s > self._wait_s:
            raise Stalled(f"nothing more of {self._own.parent} arrived for {self._wait_s:g} s")

    def _now_ready(self, known: int | None = None) -> tuple[int | None, mmap.mmap | bytes]:
        """The file `ready`, as it is now if not the `known` one; where it is not made yet, nothing has arrived."""
        path = self._own / "ready"
        try:
            if known is not None and path.stat().st_ino == known:
                return known, self._ready
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                head = file.read(_HEAD_BYTES)
                if head[_KNOWN] == self._known:
                    return status.st_ino, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except FileNotFoundError:
            head = b""
        if known is not None or any(head):
            raise FileNotFoundError(f"{path} is another model's")
        (self._own / "manifest").stat()
        return None, bytes(_HEAD_BYTES + self._manifest.chunk_count)


class Files:
    """The safetensors files of a model, and what is in them."""

    def __init__(self, place: Place, *, wait_s: float = 0.0) -> None:
        self.directory = place.directory
        self.paths = sorted(place.directory.glob("**/*.safetensors"))
        if not self.paths:
            raise BadModel(f"{place.directory} has no safetensors files: open what is there by yourself")
        self.arriving = Arriving(place.directory, self.paths, wait_s=wait_s) if not place.complete else None
        self.mapped = self.arriving or (Mapped(self.paths) if place.staged and in_memory(place.directory) else None)
        self._headers = [self._header(number, path) for number, path in enumerate(self.paths)]

    def parts(self, shard: Shard | None) -> dict[str, Part]:
        """Tensors by name, in the order of their bytes. Raises BadModel, BadShard."""
        found: dict[str, Part] = {}
        for number, header in enumerate(self._headers):
            for entry in header.tensors:
                if entry.name in found:
                    raise BadModel(f"{self.paths[number]}: tensor {entry.name!r} is in another file too")
                found[entry.name] = Part(number, entry, shard.cut(entry.name, entry.shape) if shard else None)
        return found

    def open(self, parts: Iterable[Part]) -> Source:
        """The source of these parts, which are read in this order where they have to be."""
        return self.mapped or FromDisk(self.paths, [part.extent for part in parts])

    def _header(self, number: int, path: Path) -> Header:
        if self.mapped is None:
            with path.open("rb") as file:
                return read_header(file, os.fstat(file.fileno()).st_size, str(path))
        view = self.mapped.views[number]
        return read_header(_Cursor(view, lambda end: self.mapped.wait(number, 0, end)), len(view), str(path))


class FromDisk:
    """Files read past the page cache."""

    def __init__(self, paths: Sequence[Path], extents: Sequence[tuple[int, int, int]]) -> None:
        self.reading = Reading(paths, extents)
        self.views = [self.reading.buffer.file(index, size) for index, size in enumerate(self.reading.sizes)]
        self.wait: Callable[[int, int, int], None] = self.reading.wait


class _Cursor:
    """As much of a file as `read_header` needs."""

    def __init__(self, view: memoryview, wait: Callable[[int], None]) -> None:
        self._view = view
        self._wait = wait
        self._at = 0

    def read(self, count: int) -> bytes:
        end = min(len(self._view), self._at + count)
        self._wait(end)
        piece = bytes(self._view[self._at : end])
        self._at = end
        return piece


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        # Private and writable: torch wants to be able to write, and what is written stays in this process.
        return memoryview(mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE))
