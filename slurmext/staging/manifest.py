"""What a revision of a model consists of: its files, and the chunks in which they travel and are checked.

A chunk never spans two files. Chunks begin anew at large tensors, so that revisions and fine-tunes that share tensors
share chunks even when something before them grew. The checksum of a chunk is XXH3-128 (fast, against damage); what
guards against a hostile peer is that agents prove themselves to each other; a file's SHA-256 is taken once, at import.
"""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Any, Final

from slurmext.staging.errors import BadManifest, BadModel
from slurmext.staging.names import ModelKey, check_file_name

CHUNK_BYTES: Final = 512 * 1024
ANCHOR_BYTES: Final = 8 * CHUNK_BYTES
"""Tensors from this size on begin a chunk of their own."""
DIGEST_BYTES: Final = 16
MOST_FILES: Final = 10_000
MOST_CHUNKS: Final = 1 << 23
MOST_HEAD_BYTES: Final = 8 << 20
"""What a manifest says besides its chunks: as JSON it takes many times as much memory, and any user may send one."""
_VERSION: Final = 1


class FileKind(StrEnum):
    """What slurmext knows of a file's inside."""

    SAFETENSORS = "safetensors"
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file of a model: its name below the model's directory, bytes, SHA-256 in hex."""

    name: str
    size: int
    sha256: str
    kind: FileKind = FileKind.OPAQUE


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where a chunk lies: which file, and the bytes [offset, offset + length) of it."""

    file: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Files of one revision in order, and its chunks: `lengths` in bytes and 16-byte `digests`, in order of files.

    `order` are ranges [begin, end) of chunks in the order in which they are best sent, empty for the order they lie in.
    """

    key: ModelKey
    files: tuple[FileEntry, ...]
    lengths: array[int]
    digests: bytes
    order: tuple[tuple[int, int], ...] = ()
    starts: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """The first chunk of each file, and after them the number of chunks."""
    _offsets: array[int] = field(init=False, repr=False, compare=False)
    _sequence: array[int] = field(init=False, repr=False, compare=False)
    _ranks: array[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [check_file_name(entry.name) for entry in self.files]
        folded = {name.casefold() for name in names}
        if len(folded) != len(names):
            raise BadModel("two files have the same name (or differ only in upper and lower case)")
        folders = {folder for name in folded for folder in accumulate(name.split("/")[:-1], "{}/{}".format)}
        if clash := folders & folded:
            raise BadModel(f"{min(clash)!r} is a file and a directory")
        if len(self.digests) != DIGEST_BYTES * len(self.lengths) or len(self.lengths) > MOST_CHUNKS:
            raise BadManifest(f"{self.key}: {len(self.lengths)} chunks do not match their checksums")
        offsets, starts, at = array("Q"), [], 0
        for entry in self.files:
            starts.append(at)
            within = 0
            while within < entry.size:
                if at == len(self.lengths) or not 0 < self.lengths[at] <= CHUNK_BYTES:
                    raise BadManifest(f"{self.key}: the chunks do not cover {entry.name}")
                offsets.append(within)
                within += self.lengths[at]
                at += 1
            if within != entry.size:
                raise BadManifest(f"{self.key}: the chunks run over the end of {entry.name}")
        if at != len(self.lengths):
            raise BadManifest(f"{self.key}: chunks that belong to no file")
        object.__setattr__(self, "starts", (*starts, at))
        object.__setattr__(self, "_offsets", offsets)
        # Added up before they are written out: ranges that overlap may be any number of chunks.
        once = not self.order or sum(max(0, end - begin) for begin, end in self.order) == at
        sequence = array("I", (index for begin, end in self.order if once for index in range(begin, min(end, at))))
        if self.order and (len(sequence) != at or len(set(sequence)) != at):
            raise BadManifest(f"{self.key}: an order that does not have every chunk once")
        ranks = array("I", sequence)
        for rank, index in enumerate(sequence):
            ranks[index] = rank
        object.__setattr__(self, "_sequence", sequence)
        object.__setattr__(self, "_ranks", ranks)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files)

    @property
    def chunk_count(self) -> int:
        """How many chunks there are."""
        return len(self.lengths)

    def rank(self, index: int) -> int:
        """When chunk `index` is best sent: 0 is first."""
        return self._ranks[index] if self._ranks else index

    def of_rank(self, rank: int) -> int:
        """The chunk of this rank."""
        return self._sequence[rank] if self._sequence else rank

    def chunk(self, index: int) -> Chunk:
        """Where chunk `index` lies."""
        return Chunk(bisect_right(self.starts, index) - 1, self._offsets[index], self.lengths[index])

    def digest(self, index: int) -> bytes:
        """The XXH3-128 checksum of chunk `index`."""
        return self.digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

    def chunks_of(self, file: int, begin: int, end: int) -> range:
        """The chunks that hold the bytes [begin, end) of a file."""
        first, last = self.starts[file], self.starts[file + 1]
        if begin >= end or first == last:
            return range(0)
        low = bisect_right(self._offsets, begin, first, last) - 1
        high = bisect_right(self._offsets, end - 1, first, last)
        return range(low, high)

    def dump(self) -> bytes:
        """The manifest as bytes: a line of JSON, lengths (4 bytes each, little endian), checksums."""
        head = {
            "slurmext_manifest": _VERSION, "model": self.key.name, "revision": self.key.revision,
            "chunks": len(self.lengths),
            "files": [[entry.name, entry.size, entry.sha256, entry.kind.value] for entry in self.files],
        }  # fmt: skip
        if self.order:
            head["order"] = [list(pair) for pair in self.order]
        lengths = array("I", self.lengths)
        if sys.byteorder == "big":
            lengths.byteswap()
        line = json.dumps(head, separators=(",", ":"), sort_keys=True).encode() + b"\n"
        return line + lengths.tobytes() + self.digests

    def fingerprint(self) -> str:
        """SHA-256 of `dump()` in hex: the registry keeps it, and no peer's manifest is believed without it."""
        return hashlib.sha256(self.dump()).hexdigest()


def parse_manifest(raw: bytes, *, fingerprint: str | None = None) -> Manifest:
    """What `dump` gave, checked, and against its fingerprint where given. Raises BadManifest, BadModel."""
    if fingerprint is not None and hashlib.sha256(raw).hexdigest() != fingerprint:
        raise BadManifest("a manifest that is not the one the registry knows; import the model again")
    line, _, rest = raw.partition(b"\n")
    if len(line) > MOST_HEAD_BYTES:
        raise BadManifest(
            f"a manifest whose files and order take more than {MOST_HEAD_BYTES >> 20} MiB: split the model"
        )
    try:
        head: Any = json.loads(line)
        count = head["chunks"]
        if head["slurmext_manifest"] != _VERSION or not isinstance(count, int) or not 0 <= count <= MOST_CHUNKS:
            raise BadManifest(f"a manifest of another version, not {_VERSION}")
        if len(rest) != count * (4 + DIGEST_BYTES) or len(head["files"]) > MOST_FILES:
            raise BadManifest("a manifest that was cut off; import the model again")
        files = tuple(_entry(*row) for row in head["files"])
        key = ModelKey(head["model"], head["revision"])
        order = tuple((_count(begin, count), _count(end, count)) for begin, end in head.get("order", ()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadManifest(f"not a manifest ({error}); import the model again") from error
    lengths = array("I", rest[: 4 * count])
    if sys.byteorder == "big":
        lengths.byteswap()
    return Manifest(key=key, files=files, lengths=lengths, digests=rest[4 * count :], order=order)


def cuts(size: int, anchors: Iterable[int] = ()) -> Iterator[int]:
    """Lengths of the chunks of a file of `size` bytes; one begins at each anchor (byte offsets)."""
    edges = [0, *sorted({anchor for anchor in anchors if 0 < anchor < size}), size]
    for begin, end in pairwise(edges):
        for at in range(begin, end, CHUNK_BYTES):
            yield min(CHUNK_BYTES, end - at)


def shared_chunks(wanted: Manifest, held: Sequence[Manifest]) -> dict[int, tuple[int, int]]:
    """Chunks of `wanted` that others have too: index -> (which of `held`, its chunk)."""
    due: dict[tuple[bytes, int], list[int]] = {}  # of the one model, not of all the others: those may be terabytes
    for index in range(wanted.chunk_count if held else 0):
        due.setdefault((wanted.digest(index), wanted.lengths[index]), []).append(index)
    found: dict[int, tuple[int, int]] = {}
    for number, manifest in enumerate(held):
        for index in range(manifest.chunk_count):
            for mine in due.pop((manifest.digest(index), manifest.lengths[index]), ()):
                found[mine] = number, index
    return found


def _count(value: Any, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise BadManifest(f"no place among {most} chunks: {value!r}")
    return value


def _entry(name: str, size: int, sha256: str, kind: str) -> FileEntry:
    good = isinstance(name, str) and isinstance(size, int) and not isinstance(size, bool) and size >= 0
    if not good or len(bytes.fromhex(sha256)) != 32:  # noqa: PLR2004
        raise BadManifest(f"file {name!r} has no usable size and checksum")
    return FileEntry(name=name, size=size, sha256=sha256, kind=FileKind(kind))
