"""What one rank writes: which rows of which arrays, where they lie in its stream of bytes, and the stream's blocks.

Pure. A stream is cut into blocks of at most BLOCK bytes, each with a checksum, each a unit of writing, of reading and
of recognising what did not change. A large array starts a block, so that its blocks are the same as long as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from slurmext.checkpoint.engine.arrays import Leaf, itemsize

BLOCK = 4 << 20
PAGE = 4096
"""Direct I/O wants offsets, sizes and memory in multiples of this at most."""
LARGE = 1 << 20
LINE = 64
WHOLE = 4 << 20
"""A replicated array below this is written by one rank, not shared among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Rows `first` to `last` of a leaf (its whole, when it has no dimension), at `at` in the stream."""

    leaf: Leaf
    first: int
    last: int
    at: int
    nbytes: int

    @property
    def offset(self) -> tuple[int, ...]:
        """Where the piece begins in the whole array."""
        start = self.leaf.offset
        return (start[0] + self.first, *start[1:]) if start else ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The piece's shape."""
        return (self.last - self.first, *self.leaf.shape[1:]) if self.leaf.shape else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A rank's stream: its pieces, and (offset, size) of its blocks, one after the other without a gap.

    `gaps`: (offset, size) of what lies between the pieces and holds zeros.
    """

    pieces: tuple[Piece, ...]
    blocks: tuple[tuple[int, int], ...]
    gaps: tuple[tuple[int, int], ...]
    size: int


def lay_out(leaves: Sequence[Leaf], rank: int) -> Layout:
    """What `rank` writes of its leaves. Ranks that hold the same parts come to the same division without talking."""
    pieces: list[Piece] = []
    blocks: list[tuple[int, int]] = []
    start = at = 0

    def end_block() -> None:
        nonlocal start, at
        if at > start:
            at = -(-at // PAGE) * PAGE
            blocks.append((start, at - start))
        start = at

    for leaf, first, last in rows_of(leaves, rank):
        nbytes = leaf.nbytes
        size = nbytes if not leaf.shape or not nbytes else nbytes // leaf.shape[0] * (last - first)
        if size >= LARGE or at - start + size > BLOCK:
            end_block()
        pieces.append(Piece(leaf=leaf, first=first, last=last, at=at, nbytes=size))
        end = at + size
        while end - start > BLOCK:
            blocks.append((start, BLOCK))
            start += BLOCK
        at = -(-end // LINE) * LINE
        if size >= LARGE:
            end_block()
    end_block()
    ends = [piece.at + piece.nbytes for piece in pieces]
    starts = [*(piece.at for piece in pieces[1:]), at]
    gaps = tuple((end, start - end) for end, start in zip(ends, starts, strict=True) if start > end) if pieces else ()
    return Layout(pieces=tuple(pieces), blocks=tuple(blocks), gaps=gaps, size=at)


def rows_of(leaves: Sequence[Leaf], rank: int) -> list[tuple[Leaf, int, int]]:
    """(leaf, first row, last row) that this rank writes: all of its own, its share of what others hold as well.

    The leaves that the same ranks hold are strung together and cut into equal parts by bytes. Every one of those ranks
    sees the same leaves in the same order, so that each row is written by exactly one.
    """
    totals: dict[tuple[int, ...], int] = {}
    for leaf in leaves:
        if len(leaf.replicas) > 1:
            totals[leaf.replicas] = totals.get(leaf.replicas, 0) + leaf.nbytes
    passed = dict.fromkeys(totals, 0)
    rows: list[tuple[Leaf, int, int]] = []
    for leaf in leaves:
        length = leaf.shape[0] if leaf.shape else 1
        total = totals.get(leaf.replicas, 0)
        if not total:
            if len(leaf.replicas) < 2 or leaf.replicas[0] == rank:  # noqa: PLR2004 - alone, or empty
                rows.append((leaf, 0, length))
            continue
        ranks, begin = len(leaf.replicas), passed[leaf.replicas]
        passed[leaf.replicas] += leaf.nbytes
        place = leaf.replicas.index(rank)
        low, high = total * place // ranks, total * (place + 1) // ranks
        if leaf.nbytes < WHOLE or length == 1:
            middle = min(begin + leaf.nbytes // 2, total - 1)
            if low <= middle < high:
                rows.append((leaf, 0, length))
            continue
        row = leaf.nbytes // length
        first, last = _row(low - begin, row, length), _row(high - begin, row, length)
        if last > first:
            rows.append((leaf, first, last))
    return rows


def _row(position: int, row: int, length: int) -> int:
    return min(max(-(-position // row), 0), length)


def intersection(
    offset: Sequence[int], shape: Sequence[int], other_offset: Sequence[int], other_shape: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(offset, shape) of what two boxes have in common, None when that is nothing."""
    low = tuple(max(a, b) for a, b in zip(offset, other_offset, strict=True))
    high = tuple(min(a + n, b + m) for a, n, b, m in zip(offset, shape, other_offset, other_shape, strict=True))
    size = tuple(end - begin for begin, end in zip(low, high, strict=True))
    return (low, size) if all(count > 0 for count in size) else None


def run_of(
    box_offset: Sequence[int], box_shape: Sequence[int], offset: Sequence[int], shape: Sequence[int], dtype: str
) -> tuple[int, int] | None:
    """(first byte, bytes) of a box within a larger one in C order; None when it is not a single run of bytes."""
    size = itemsize(dtype)
    ragged = False  # whether a dimension further out has more than one index
    for count, limit in zip(shape, box_shape, strict=True):
        if ragged and count != limit:
            return None
        ragged = ragged or count > 1
    at = 0
    for start, base, limit in zip(offset, box_offset, box_shape, strict=True):
        at = at * limit + (start - base)
    return at * size, math.prod(shape) * size
