"""The state as it is now, copied into a buffer: the only part of a save that training waits for."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from slurmext.checkpoint.engine import tree
from slurmext.checkpoint.engine.arrays import Leaf
from slurmext.checkpoint.engine.buffers import Buffer, BufferPool, copy
from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.stream import Layout, lay_out


@dataclass(slots=True, kw_only=True)
class Snapshot:
    """A state's document and its arrays' bytes. `waited_s`: for a buffer; `taken_s`: for the copy."""

    document: tree.Document
    layout: Layout
    buffer: Buffer
    waited_s: float
    taken_s: float
    copies: Any = None
    info: dict[str, Any] = field(default_factory=dict)

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
    buffer.zero(layout.gaps)
    on_device = [piece for piece in layout.pieces if _device(piece.leaf) is not None]
    copies = None
    if on_device:
        from slurmext.checkpoint.engine.torch_arrays import DeviceCopies

        buffer.pin()
        copies = DeviceCopies()
        with _on_streams(copies, {_device(piece.leaf) for piece in on_device}) as streams:
            for piece in on_device:
                streams.enter(_device(piece.leaf), piece.leaf.owner)
                _get(piece, buffer)
        copies.end()
    parts: list[tuple[int, int, int]] = []
    for piece in layout.pieces:
        if piece.leaf.address is not None and piece.nbytes:
            row = piece.nbytes // (piece.last - piece.first)
            parts.append((buffer.address + piece.at, piece.leaf.address + piece.first * row, piece.nbytes))
        elif piece.nbytes and _device(piece.leaf) is None:
            _get(piece, buffer)
    copy(parts, crew)
    return copies


def _get(piece: Any, buffer: Buffer) -> None:
    leaf: Leaf = piece.leaf
    assert leaf.get is not None  # noqa: S101 - every leaf without an address has it
    leaf.get(buffer.view[piece.at : piece.at + piece.nbytes], piece.first, piece.last)


def _device(leaf: Leaf) -> Any:
    """The GPU a tensor is on, None for memory of the process."""
    if leaf.kind != "torch" or leaf.address is not None:
        return None
    device = leaf.owner.device
    return device if device.type == "cuda" else None


class _Streams:
    def __init__(self, streams: dict[Any, Any]) -> None:
        self._streams = streams
        self._torch = sys.modules["torch"]

    def enter(self, device: Any, tensor: Any) -> None:
        self._torch.cuda.set_stream(self._streams[device])
        tensor.record_stream(self._streams[device])


@contextlib.contextmanager
def _on_streams(copies: Any, devices: Sequence[Any] | set[Any]) -> Iterator[_Streams]:
    torch = sys.modules["torch"]
    before = {device: torch.cuda.current_stream(device) for device in devices}
    current = torch.cuda.current_device()
    try:
        yield _Streams({device: copies.start(device) for device in devices})
    finally:
        for stream in before.values():
            torch.cuda.set_stream(stream)
        torch.cuda.set_device(current)
