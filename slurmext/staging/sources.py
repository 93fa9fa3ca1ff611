"""Where the bytes of a model's safetensors files come from in a job: mapped memory, files that are arriving, a disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slurmext.staging.arriving import Arriving, mapped
from slurmext.staging.errors import BadModel
from slurmext.staging.places import Place, in_memory
from slurmext.staging.readers import Reading
from slurmext.staging.safetensors import Header, TensorEntry, read_header
from slurmext.staging.shards import Shard


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
        self.views = [mapped(path) for path in paths]

    def wait(self, file: int, begin: int, end: int) -> None:
        pass


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
