"""The state as it is now, copied into a buffer: the only part of a save that training waits for."""

from __future__ import annotations

import functools
import time
from bisect import bisect_left
from typing import Any

from slurmext.checkpoint.engine import tree
from slurmext.checkpoint.engine.buffers import Buffer, BufferPool, move, shares_of
from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.progress import Progress
from slurmext.checkpoint.engine.stream import Layout, Piece, lay_out


class Snapshot:
    """A state's document and a buffer for its arrays' bytes: `fill` copies them, and who writes them follows behind.

    `waited_s`: for the buffer. Once the copy is over, `taken_s`: how long it took, `over_s`: when (perf_counter).
    """

    def __init__(
        self, document: tree.Document, layout: Layout, buffer: Buffer, *, began_s: float, waited_s: float
    ) -> None:
        self.document, self.layout, self.buffer = document, layout, buffer
        self.began_s, self.waited_s = began_s, waited_s
        self.taken_s = self.over_s = 0.0
        self._copies: Any = None
        """What GPUs are still copying."""
        self._progress = Progress()
        pieces = [piece for piece in layout.pieces if piece.nbytes]
        self._fetched = [piece for piece in pieces if piece.leaf.address is None]
        self._shares = shares_of(
            [
                (buffer.address + piece.at, _address(piece), piece.nbytes)
                for piece in pieces
                if piece.leaf.address is not None
            ]
        )
        self._starts = [share[0][0] - buffer.address for share in self._shares]

    def fill(self, crew: Crew) -> None:
        """Copy what the processor can, and have GPUs copy theirs. Raises what an array's owner does."""
        try:
            self.buffer.zero(self.layout.gaps)
            self._fetch()
            crew.each(self._copy, range(len(self._shares)))
        except BaseException as error:
            if self._copies is not None:
                self._copies.wait()
            self._progress.end(error)
            raise
        self.over_s = time.perf_counter()
        self.taken_s = self.over_s - self.began_s - self.waited_s
        self._progress.end()

    def reached(self, block: int) -> bool:
        """Wait until this block can be read while later ones are still being copied; False when none are."""
        if self._fetched:
            return False
        at, size = self.layout.blocks[block]
        self._progress.wait(bisect_left(self._starts, at + size))
        return not self._progress.over

    def ready(self) -> None:
        """Wait for all copies, those of GPUs too. Raises CheckpointError."""
        self._progress.wait()
        if self._copies is not None:
            self._copies.wait()

    def _copy(self, number: int) -> None:
        for part in self._shares[number]:
            move(*part)
        self._progress.done(number)

    def _fetch(self) -> None:
        on_device: dict[Any, list[Piece]] = {}
        others: list[Piece] = []
        for piece in self._fetched:
            leaf = piece.leaf
            if leaf.kind == "torch" and leaf.owner.device.type == "cuda":
                on_device.setdefault(leaf.owner.device, []).append(piece)
            else:
                others.append(piece)
        if on_device:
            self._copies = _queue(on_device, self.buffer)
        for piece in others:
            _get(piece, self.buffer)


def begin(state: Any, *, rank: int, world: int, pool: BufferPool) -> Snapshot:
    """Of what `rank` writes of a state, not copied yet. Raises CheckpointError naming a value that cannot be saved."""
    began_s = time.perf_counter()
    document, leaves = tree.pack(state, suffix=suffix(rank, world))
    layout = lay_out(leaves, rank)
    buffer, waited_s = pool.take(layout.size)
    return Snapshot(document, layout, buffer, began_s=began_s, waited_s=waited_s)


def size_of(state: Any, *, rank: int, world: int) -> int:
    """Bytes of buffer a snapshot of the state takes in this rank."""
    _, leaves = tree.pack(state, suffix=suffix(rank, world))
    return lay_out(leaves, rank).size


def suffix(rank: int, world: int) -> str:
    """What is added to the names of arrays that a rank holds alone."""
    return f"@{rank}" if world > 1 else ""


def _address(piece: Piece) -> int:
    assert piece.leaf.address is not None  # noqa: S101 - the caller has looked
    return piece.leaf.address + piece.first * (piece.nbytes // (piece.last - piece.first))


def _queue(pieces: dict[Any, list[Piece]], buffer: Buffer) -> Any:
    from slurmext.checkpoint.engine.torch_arrays import DeviceCopies

    buffer.pin()
    copies = DeviceCopies(pieces)
    try:
        for device, mine in pieces.items():
            copies.copy(device, [(piece.leaf.owner, functools.partial(_get, piece, buffer)) for piece in mine])
    except BaseException:
        copies.end()
        copies.wait()
        raise
    copies.end()
    return copies


def _get(piece: Piece, buffer: Buffer) -> None:
    get = piece.leaf.get
    assert get is not None  # noqa: S101 - every leaf without an address has it
    get(buffer.view[piece.at : piece.at + piece.nbytes], piece.first, piece.last)
