"""Packs into arrays: blocks read directly by several threads, checked, and copied to where they belong.

They are read into a few megabytes of huge pages and copied out of the processor's cache, not read straight into the
arrays: these lie in small pages, which direct reads of a virtual disk take twice as long to fill, and seldom where
direct I/O wants them. Only the blocks that hold something wanted are read, each once. A target may be any box of an
array, whatever boxes the ranks that saved had.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slurmext.checkpoint.engine.arrays import Leaf, itemsize, memory
from slurmext.checkpoint.engine.buffers import Buffer, move
from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.digest import digester
from slurmext.checkpoint.engine.errors import BadCheckpointError
from slurmext.checkpoint.engine.files import OldFile
from slurmext.checkpoint.engine.manifest import Block, Manifest, SavedPiece
from slurmext.checkpoint.engine.stream import intersection, run_of

ROOM = 1 << 30
"""Bytes staged at a time for arrays that cannot be filled directly: strided, on a GPU, cut otherwise than saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A box of the array `name` in the checkpoint, to be put into `leaf`."""

    name: Any
    leaf: Leaf


@dataclass(slots=True)
class _Fill:
    """What is to be copied out of each block, and what follows when all is."""

    copies: dict[tuple[int, int], list[tuple[int, int, int]]] = field(default_factory=dict)
    """(part, block) to [(offset in the block, bytes, address)]."""
    then: list[Callable[[], None]] = field(default_factory=list)
    keep: list[Any] = field(default_factory=list)


def fill(
    folders: Sequence[Path], manifest: Manifest, wants: Sequence[Want], crew: Crew, *, check_only: bool = False
) -> None:
    """Put what is wanted into its arrays. Raises BadCheckpointError: then some arrays may have been overwritten.

    `folders`: where the checkpoint is; each pack is read from the first that has it. `check_only`: read and check the
    same blocks and change nothing.
    """
    index = _index(manifest)
    needed = _needed(manifest, index, wants)
    with _Packs(folders, manifest, needed.copies) as packs:
        if check_only:
            _read_blocks(packs, manifest, {key: [] for key in needed.copies}, crew)
            return
        for batch in _batches(wants):
            todo = _Fill()
            for want in batch:
                _plan(manifest, index, want, todo, staged=True)
            _read_blocks(packs, manifest, todo.copies, crew)
            for step in todo.then:
                step()


def packs_of(manifest: Manifest, wants: Sequence[Want]) -> list[str]:
    """The names of the files that `fill` reads. Raises BadCheckpointError."""
    keys = _needed(manifest, _index(manifest), wants).copies
    packs = {manifest.parts[part].packs[manifest.parts[part].blocks[block].pack][0] for part, block in keys}
    return sorted(Path(name).name for name in packs)


def _index(manifest: Manifest) -> dict[Any, list[tuple[int, SavedPiece]]]:
    index: dict[Any, list[tuple[int, SavedPiece]]] = {}
    for number, part in enumerate(manifest.parts):
        for piece in part.pieces:
            index.setdefault(piece.name, []).append((number, piece))
    return index


def _needed(manifest: Manifest, index: dict[Any, list[tuple[int, SavedPiece]]], wants: Sequence[Want]) -> _Fill:
    needed = _Fill()
    for want in wants:
        _plan(manifest, index, want, needed, staged=False)
    return needed


class Interrupted(Exception):
    """A check was given up."""


def check(
    folder: Path, manifest: Manifest, crew: Crew, *, share: tuple[int, int] = (0, 1),
    enough: Callable[[], bool] = lambda: False,
) -> None:  # fmt: skip
    """Read every block and compare its checksum. Raises BadCheckpointError.

    `share`: (i, n): every n-th part from the i-th, for ranks that do it together. `enough`: asked before each block;
    once it says so, Interrupted is raised.
    """
    copies: dict[tuple[int, int], list[tuple[int, int, int]]] = {
        (number, block): []
        for number, part in enumerate(manifest.parts)
        if number % share[1] == share[0]
        for block in range(len(part.blocks))
    }
    with _Packs([folder], manifest, copies) as packs:
        _read_blocks(packs, manifest, copies, crew, enough=enough)


class _Packs:
    """The open files that some blocks are in; all are there and have their size, or opening fails."""

    def __init__(self, folders: Sequence[Path], manifest: Manifest, keys: Iterable[tuple[int, int]]) -> None:
        self._files: dict[tuple[int, int], OldFile] = {}
        try:
            for part, pack in sorted({(part, manifest.parts[part].blocks[block].pack) for part, block in keys}):
                name, size = manifest.parts[part].packs[pack]
                self._files[part, pack] = _open(folders, Path(name).name, size)
        except BaseException:
            self.__exit__()
            raise

    def of(self, part: int, block: Block) -> OldFile:
        return self._files[part, block.pack]

    def __enter__(self) -> _Packs:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()


def _open(folders: Sequence[Path], name: str, size: int) -> OldFile:
    for folder in folders[:-1]:
        if (folder / name).exists():
            return OldFile(folder / name, size)
    return OldFile(folders[-1] / name, size)


def _batches(wants: Iterable[Want]) -> Iterable[list[Want]]:
    batch: list[Want] = []
    room = ROOM
    for want in wants:
        staged = 0 if want.leaf.address is not None else want.leaf.nbytes
        if batch and staged > room:
            yield batch
            batch, room = [], ROOM
        batch.append(want)
        room -= staged
    if batch:
        yield batch


def _plan(
    manifest: Manifest, index: dict[Any, list[tuple[int, SavedPiece]]], want: Want, todo: _Fill, *, staged: bool
) -> None:
    leaf = want.leaf
    if not leaf.nbytes:
        return
    address = leaf.address
    if address is None and staged:
        address = _stage(leaf, todo)
    found = 0
    for number, piece in index.get(want.name, ()):
        if piece.dtype != leaf.dtype or len(piece.whole) != len(leaf.whole):
            raise BadCheckpointError(f"its manifest contradicts itself about {want.name}")
        common = intersection(leaf.offset, leaf.shape, piece.offset, piece.shape)
        if common is None:
            continue
        found += math.prod(common[1])
        source = run_of(piece.offset, piece.shape, *common, leaf.dtype)
        target = run_of(leaf.offset, leaf.shape, *common, leaf.dtype)
        if not staged:
            _take(manifest, number, piece.at, math.prod(piece.shape) * itemsize(leaf.dtype), 0, todo)
        elif source and target:
            _take(manifest, number, piece.at + source[0], source[1], (address or 0) + target[0], todo)
        else:
            _take_cut(manifest, number, piece, leaf, address or 0, common, todo)
    if found < math.prod(leaf.shape):
        raise BadCheckpointError(f"{want.name} is incomplete in it")


def _stage(leaf: Leaf, todo: _Fill) -> int:
    import numpy as np

    staged = np.empty(leaf.nbytes, np.uint8)
    put = leaf.put
    if put is not None:
        todo.then.append(lambda: put(staged))
    todo.keep.append(staged)
    return staged.ctypes.data


def _take_cut(
    manifest: Manifest, number: int, piece: SavedPiece, leaf: Leaf, address: int,
    common: tuple[tuple[int, ...], tuple[int, ...]], todo: _Fill,
) -> None:  # fmt: skip
    """A box that is no single run of bytes on one of the sides: the piece is read whole and cut out of memory."""
    import numpy as np

    size = itemsize(leaf.dtype)
    whole = np.empty((*piece.shape, size), np.uint8)
    target = np.frombuffer(memory(address, leaf.nbytes), np.uint8).reshape(*leaf.shape, size)

    def box(offset: Sequence[int]) -> tuple[slice, ...]:
        starts = [low - base for low, base in zip(common[0], offset, strict=True)]
        return tuple(slice(start, start + count) for start, count in zip(starts, common[1], strict=True))

    def cut() -> None:
        target[box(leaf.offset)] = whole[box(piece.offset)]

    _take(manifest, number, piece.at, whole.nbytes, whole.ctypes.data, todo)
    todo.then.insert(0, cut)
    todo.keep.append(whole)


def _take(manifest: Manifest, number: int, at: int, size: int, address: int, todo: _Fill) -> None:
    """Bytes `at` of a part's stream to an address, block by block."""
    part = manifest.parts[number]
    block = bisect_right(part.starts, at) - 1
    while size:
        if not 0 <= block < len(part.blocks):
            raise BadCheckpointError("its manifest names bytes that no file has")
        within = at - part.starts[block]
        count = min(size, part.blocks[block].size - within)
        todo.copies.setdefault((number, block), []).append((within, count, address))
        at, size, address, block = at + count, size - count, address + count, block + 1


def _read_blocks(
    packs: _Packs, manifest: Manifest, copies: dict[tuple[int, int], list[tuple[int, int, int]]], crew: Crew, *,
    enough: Callable[[], bool] = lambda: False,
) -> None:  # fmt: skip
    digest = digester(manifest.algorithm)
    local = threading.local()
    order = sorted(copies, key=lambda key: (manifest.parts[key[0]].blocks[key[1]].pack, key[0], _offset(manifest, key)))

    def bounce(size: int) -> Buffer:
        """The thread's memory to read into."""
        if getattr(local, "buffer", None) is None or local.buffer.capacity < size:
            local.buffer = Buffer(size)
        return local.buffer

    def work(key: tuple[int, int]) -> None:
        if enough():
            raise Interrupted
        block = manifest.parts[key[0]].blocks[key[1]]
        file, buffer = packs.of(key[0], block), bounce(block.size)
        content = buffer.view[: block.size]
        file.read(content, block.offset)
        if digest(content) != block.digest:
            raise BadCheckpointError(
                f"{file.path.name} does not match its checksum between bytes {block.offset} and "
                f"{block.offset + block.size}"
            )
        for within, count, target in copies[key]:
            move(target, buffer.address + within, count)

    crew.each(work, order)


def _offset(manifest: Manifest, key: tuple[int, int]) -> int:
    return manifest.parts[key[0]].blocks[key[1]].offset
