"""The state as it is now, copied into a buffer: the only part of a save that training waits for."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

from slurmext.checkpoint.engine import tree
from slurmext.checkpoint.engine.buffers import Buffer, BufferPool, copy
from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.stream import Layout, Piece, lay_out


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """A state's document and its arrays' bytes. `waited_s`: for a buffer; `taken_s`: for the copy."""

    document: tree.Document
    layout: Layout
    buffer: Buffer
    waited_s: float
    taken_s: float
    copies: Any = None
    """What GPUs are still copying."""

    def ready(self) -> None:
        """Wait for the copies from a GPU."""
        if self.copies is not None:
            self.copies.wait()


def take(state: Any, *, rank: int, world: int, pool: BufferPool, crew: Crew) -> Snapshot:
    """Copy what `rank` writes of a state. Raises CheckpointError naming a value that cannot be saved."""
    started = time.perf_counter()
    document, leaves = tree.pack(state, suffix=suffix(rank, world))
    layout = lay_out(leaves, rank)
    buffer, waited_s = pool.take(layout.size)
    try:
        copies = _copy(layout, buffer, crew)
    except BaseException:
        pool.give_back(buffer)
        raise
    taken_s = time.perf_counter() - started - waited_s
    return Snapshot(document=document, layout=layout, buffer=buffer, waited_s=waited_s, taken_s=taken_s, copies=copies)


def size_of(state: Any, *, rank: int, world: int) -> int:
    """Bytes of buffer a snapshot of the state takes in this rank."""
    _, leaves = tree.pack(state, suffix=suffix(rank, world))
    return lay_out(leaves, rank).size


def suffix(rank: int, world: int) -> str:
    """What is added to the names of arrays that a rank holds alone."""
    return f"@{rank}" if world > 1 else ""


def _copy(layout: Layout, buffer: Buffer, crew: Crew) -> Any:
    """Copies what the processor can; returns the copies that GPUs are still making, None when there are none."""
    buffer.zero(layout.gaps)
    on_device: dict[Any, list[Piece]] = {}
    parts: list[tuple[int, int, int]] = []
    others: list[Piece] = []
    for piece in layout.pieces:
        leaf = piece.leaf
        if not piece.nbytes:
            continue
        if leaf.address is not None:
            row = piece.nbytes // (piece.last - piece.first)
            parts.append((buffer.address + piece.at, leaf.address + piece.first * row, piece.nbytes))
        elif leaf.kind == "torch" and leaf.owner.device.type == "cuda":
            on_device.setdefault(leaf.owner.device, []).append(piece)
        else:
            others.append(piece)
    copies = _queue(on_device, buffer) if on_device else None
    try:
        for piece in others:
            _get(piece, buffer)
        copy(parts, crew)
    except BaseException:
        if copies is not None:
            copies.wait()
        raise
    return copies


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
