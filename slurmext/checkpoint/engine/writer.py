"""A snapshot into a draft folder: checksums, then direct writes by several threads; what did not change is linked.

While the snapshot is still being copied its first blocks are written already.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.digest import digester
from slurmext.checkpoint.engine.files import NewFile
from slurmext.checkpoint.engine.manifest import Block, Part, SavedPiece, part
from slurmext.checkpoint.engine.snapshot import Snapshot

WORTH_FOLLOWING = 64 << 20
"""A smaller snapshot is copied before anything of it could be written."""
WORTH_LINKING = 0.5
"""A pack of which less is in use is not linked: what is in use is written again, so that disk space comes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An older checkpoint of this rank whose packs may be linked."""

    folder: Path
    part: Part

    def known(self) -> Mapping[tuple[str, int], Block]:
        """Its blocks by checksum and size."""
        return {(block.digest, block.size): block for block in self.part.blocks}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A rank's part, how many bytes of it were new on disk, and how many of those were written behind the copy.

    `moved`: numbers of the blocks that the source did not have, empty without a source.
    """

    part: Part
    new_bytes: int
    early_bytes: int
    moved: frozenset[int]


def write(
    draft: Path,
    rank: int,
    snapshot: Snapshot,
    *,
    algorithm: str,
    crew: Crew,
    source: Source | None,
    moving: Collection[int] = (),
    progress: Callable[[int], object] | None = None,
) -> Written:
    """Write this rank's part of a checkpoint; packs are durable when this returns. Raises OSError, CheckpointError.

    `moving`: blocks that had changed in the save before, and so are not looked for in the source before they are
    written. `progress` is called with the bytes that are written, from several threads.
    """
    return _Writer(draft, rank, snapshot, algorithm, crew, source, moving, progress).write()


class _Writer:
    def __init__(
        self, draft: Path, rank: int, snapshot: Snapshot, algorithm: str, crew: Crew, source: Source | None,
        moving: Collection[int], progress: Callable[[int], object] | None,
    ) -> None:  # fmt: skip
        self._draft, self._snapshot, self._crew, self._source = draft, snapshot, crew, source
        self._name = f"rank-{rank:05d}-{secrets.token_hex(4)}.bin"
        self._digest = digester(algorithm)
        self._known = source.known() if source else {}
        self._moving, self._moved = moving, set[int]()
        self._blocks: list[Block | None] = [None] * len(snapshot.layout.blocks)
        self._linked: dict[int, Block] = {}
        """Blocks of this snapshot, by number, that the source has."""
        self._end = self._early = 0
        self._progress = progress
        self._guard = threading.Lock()

    def write(self) -> Written:
        layout = self._snapshot.layout
        packs: list[tuple[str, int]] = []
        if layout.blocks:
            file = NewFile(self._draft / self._name)
            try:
                self._reserve(file, layout.size)
                self._crew.each(lambda number: self._block(file, number), self._follow(file))
                packs = self._link()
                left = [number for number in self._linked if self._blocks[number] is None]
                self._crew.each(lambda number: self._store(file, number, self._linked[number].digest), left)
                file.finish(self._end)
            except BaseException:
                # Its space is needed for telling the other ranks.
                with contextlib.suppress(OSError):
                    (self._draft / self._name).unlink()
                raise
            finally:
                file.close()
            if not self._end:
                (self._draft / self._name).unlink()
        return Written(
            part=self._part(packs), new_bytes=self._end, early_bytes=self._early, moved=frozenset(self._moved)
        )

    def _follow(self, file: NewFile) -> list[int]:
        """Write behind the copy until it is over; returns the blocks in the order in which they are to be looked at.

        In this thread alone, without checksums and from the middle of the copy on: training waits for processors and
        memory that are missing there, and nobody for the disk.
        """
        layout, early = self._snapshot.layout, list[int]()
        count = len(layout.blocks) if layout.size >= WORTH_FOLLOWING else 0
        for number in range(count) if count and self._snapshot.reached(count // 2) else ():
            if not self._snapshot.reached(number):
                break
            if self._source is None or number in self._moving:
                self._store(file, number, "")
                early.append(number)
        self._early = self._end
        self._snapshot.ready()
        rest = sorted(set(range(len(layout.blocks))).difference(early))
        # One that only lacks its checksum beside one that is to be written: processors and disk are busy alike.
        return [number for pair in itertools.zip_longest(rest, early) for number in pair if number is not None]

    def _reserve(self, file: NewFile, size: int) -> None:
        try:
            file.reserve(size)
        except OSError:
            if not self._known:
                raise  # with something to link less may be enough

    def _block(self, file: NewFile, number: int) -> None:
        digest = self._digest(self._content(number))
        same = self._known.get((digest, self._snapshot.layout.blocks[number][1]))
        if self._known and same is None:
            self._moved.add(number)
        written = self._blocks[number]
        if written is not None:
            self._blocks[number] = replace(written, digest=digest)
        elif same is not None:
            self._linked[number] = same
        else:
            self._store(file, number, digest)

    def _store(self, file: NewFile, number: int, digest: str) -> None:
        size = self._snapshot.layout.blocks[number][1]
        with self._guard:
            offset = self._end
            self._end += size
        file.write(self._content(number), offset)
        self._blocks[number] = Block(pack=-1, offset=offset, size=size, digest=digest)
        if self._progress is not None:
            self._progress(offset + size)

    def _content(self, number: int) -> memoryview:
        at, size = self._snapshot.layout.blocks[number]
        return self._snapshot.buffer.view[at : at + size]

    def _link(self) -> list[tuple[str, int]]:
        """Link the packs worth it and enter their blocks; the rest of `_linked` has to be written."""
        packs: list[tuple[str, int]] = []
        if self._source is None:
            return packs
        used: dict[int, int] = {}
        for block in self._linked.values():
            used[block.pack] = used.get(block.pack, 0) + block.size
        for old, live in sorted(used.items()):
            name, size = self._source.part.packs[old]
            if live < size * WORTH_LINKING:
                continue
            try:
                os.link(self._source.folder / name, self._draft / name)
            except OSError:
                continue  # no links on this file system, or too many
            for number, block in self._linked.items():
                if block.pack == old:
                    self._blocks[number] = Block(
                        pack=len(packs), offset=block.offset, size=block.size, digest=block.digest
                    )
            packs.append((name, size))
        return packs

    def _part(self, packs: list[tuple[str, int]]) -> Part:
        new = len(packs)
        if self._end:
            packs = [*packs, (self._name, self._end)]
        blocks = [
            block if block.pack >= 0 else Block(pack=new, offset=block.offset, size=block.size, digest=block.digest)
            for block in self._blocks
            if block is not None
        ]
        return part(self._snapshot.document, packs, blocks, pieces_of(self._snapshot))


def pieces_of(snapshot: Snapshot) -> list[SavedPiece]:
    """What is where in a snapshot's stream."""
    return [
        SavedPiece(
            name=piece.leaf.name, dtype=piece.leaf.dtype, whole=piece.leaf.whole, offset=piece.offset,
            shape=piece.shape, at=piece.at,
        )
        for piece in snapshot.layout.pieces
    ]  # fmt: skip


def summary(written: Written) -> dict[str, Any]:
    """What other ranks are told."""
    return {"part": written.part.to_json(), "new_bytes": written.new_bytes}
