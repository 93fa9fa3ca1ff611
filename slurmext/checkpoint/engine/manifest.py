"""What is in a checkpoint: `manifest.json`, one line "slurmext-checkpoint/2 <algorithm> <checksum>", then JSON.

Every rank has a part: the document of its state, the arrays it wrote, the packs (files) they are in and the checksum of
every block. A pack that older checkpoints have as well is linked, so that a checkpoint's folder is complete in itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from slurmext.checkpoint.engine.digest import ALGORITHMS, best, digester
from slurmext.checkpoint.engine.errors import BadCheckpointError
from slurmext.checkpoint.engine.files import read_small
from slurmext.checkpoint.engine.tree import Document

FORMAT = "slurmext-checkpoint/2"
FORMER = "slurmext-checkpoint/1"
NAME = "manifest.json"
INFO = ("step", "serial", "saved_at_s", "world", "job", "identity", "host", "versions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some bytes of a pack, and their checksum. `size` is a multiple of 4096, but in the former format."""

    pack: int
    offset: int
    size: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPiece:
    """A part of an array: a box at `offset` of the `whole` shape, in C order from byte `at` of its rank's stream."""

    name: Any
    dtype: str
    whole: tuple[int, ...]
    offset: tuple[int, ...]
    shape: tuple[int, ...]
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one rank wrote. `packs`: (file name, bytes); `starts`: where each block begins in the stream."""

    document: Document
    packs: tuple[tuple[str, int], ...]
    blocks: tuple[Block, ...]
    pieces: tuple[SavedPiece, ...]
    starts: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the stream."""
        return sum(block.size for block in self.blocks)

    def to_json(self) -> dict[str, Any]:
        """As it is in the manifest."""
        return {
            "document": self.document,
            "packs": [list(pack) for pack in self.packs],
            "blocks": [[block.pack, block.offset, block.size, block.digest] for block in self.blocks],
            "pieces": [[p.name, p.dtype, p.whole, p.offset, p.shape, p.at] for p in self.pieces],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A checkpoint's parts, one for each rank that saved, and what is known about the save (INFO)."""

    info: Mapping[str, Any]
    algorithm: str
    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all packs, those that older checkpoints share included."""
        return sum(size for part in self.parts for _, size in part.packs)


def part(
    document: Document, packs: Sequence[tuple[str, int]], blocks: Sequence[Block], pieces: Sequence[SavedPiece]
) -> Part:
    """A Part with its `starts`."""
    starts = tuple(accumulate((block.size for block in blocks), initial=0))[:-1]
    return Part(document=document, packs=tuple(packs), blocks=tuple(blocks), pieces=tuple(pieces), starts=starts)


def part_from(content: Mapping[str, Any]) -> Part:
    """A part from JSON. Raises KeyError, TypeError, ValueError."""
    blocks = [Block(pack=pack, offset=at, size=size, digest=sums) for pack, at, size, sums in content["blocks"]]
    pieces = [
        SavedPiece(name=name, dtype=dtype, whole=tuple(whole), offset=tuple(offset), shape=tuple(shape), at=at)
        for name, dtype, whole, offset, shape, at in content["pieces"]
    ]
    return part(content["document"], [(name, size) for name, size in content["packs"]], blocks, pieces)


def encode(info: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> bytes:
    """The file of a manifest, its checksum first."""
    body = json.dumps({**info, "parts": list(parts)}).encode()
    algorithm = best()
    return f"{FORMAT} {algorithm} {digester(algorithm)(body)}\n".encode() + body


def read(folder: Path, *, step: int, serial: int) -> Manifest:
    """The manifest of a checkpoint's folder, whose name says step and serial. Raises BadCheckpointError."""
    head, _, body = read_small(folder / NAME).partition(b"\n")
    words = head.decode("ascii", "replace").split(" ")
    if len(words) != 3 or words[0] not in {FORMAT, FORMER} or words[1] not in ALGORITHMS:  # noqa: PLR2004
        raise BadCheckpointError(f"{NAME} does not begin with {FORMAT!r}")
    if digester(words[1])(body) != words[2]:
        raise BadCheckpointError(f"{NAME} does not match its checksum")
    try:
        content = json.loads(body)
        if content["step"] != step or content["serial"] != serial:
            raise BadCheckpointError(f"{NAME} belongs to step {content['step']}")
        parts = [_former_part(content)] if words[0] == FORMER else [part_from(item) for item in content["parts"]]
        if not parts:
            raise BadCheckpointError(f"{NAME} holds no state")
        info = {key: content.get(key) for key in INFO}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise BadCheckpointError(f"{NAME} cannot be understood ({error!r})") from error
    return Manifest(info=info, algorithm=words[1], parts=tuple(parts))


def _former_part(content: Mapping[str, Any]) -> Part:
    """The part of a checkpoint in the former format: one file, one checksum, arrays by number."""
    (entry,) = content["files"]
    found: dict[int, tuple[str, tuple[int, ...]]] = {}

    def look(document: Document) -> None:
        if isinstance(document, dict):
            if "array" in document:
                shape = tuple(document["shape"])
                found[document["array"]] = (document["dtype"], shape[::-1] if document.get("fortran") else shape)
                return
            for inner in document.values():
                look(inner)
        elif isinstance(document, list):
            for inner in document:
                look(inner)

    look(content["state"])
    pieces = [
        SavedPiece(
            name=number, dtype=dtype, whole=shape, offset=(0,) * len(shape), shape=shape,
            at=content["arrays"][number]["offset"],
        )
        for number, (dtype, shape) in found.items()
    ]  # fmt: skip
    blocks = [Block(pack=0, offset=0, size=entry["size"], digest=entry["digest"])] if entry["size"] else []
    return part(content["state"], [(entry["name"], entry["size"])], blocks, pieces)
