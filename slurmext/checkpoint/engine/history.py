"""Which older checkpoint the next one may link what did not change from."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from slurmext.checkpoint.engine import folder
from slurmext.checkpoint.engine.digest import best
from slurmext.checkpoint.engine.errors import CheckpointError
from slurmext.checkpoint.engine.manifest import Part
from slurmext.checkpoint.engine.writer import Source


class History:
    """One rank's parts of the checkpoints in `directory`. `keep`, `copies`: as the Engine's."""

    def __init__(self, directory: Path, *, rank: int, world: int, keep: int, copies: int) -> None:
        self._directory, self._rank, self._world = directory, rank, world
        self._keep, self._copies = keep, copies
        self._sources: list[Source] | None = None
        """Oldest first; None before they were looked for."""
        self.moving: frozenset[int] = frozenset()
        """Blocks, by number, that the last save did not find in its source."""

    def source(self, bad: Collection[str]) -> Source | None:
        """The checkpoint to link from; with two copies or more one that shares no file with the newest. `bad`: names of
        damaged ones.
        """
        if self._sources is None:
            self._sources = self._read()
        there = [source for source in self._sources if source.folder.name not in bad and source.folder.exists()]
        if self._copies < 2 or not there:  # noqa: PLR2004
            return there[-1] if there else None
        newest = {name for name, _ in there[-1].part.packs}
        apart = [source for source in there[:-1] if not newest & {name for name, _ in source.part.packs}]
        return apart[-1] if apart else None

    def add(self, path: Path, part: Part, moved: frozenset[int] = frozenset()) -> None:
        """A new checkpoint, with the part that this rank wrote, and its blocks that were not in the source."""
        self.moving = moved
        if self._sources is not None:
            self._sources.append(Source(folder=path, part=part))
            del self._sources[: -self._keep - 2]

    def _read(self) -> list[Source]:
        found: list[Source] = []
        for saved in folder.saved_in(self._directory)[: self._keep + 1]:
            try:
                read = saved.manifest()
            except CheckpointError:
                continue
            if len(read.parts) == self._world and read.algorithm == best():
                found.insert(0, Source(folder=saved.path, part=read.parts[self._rank]))
        return found
