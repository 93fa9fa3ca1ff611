"""Tensors onto a GPU: through pinned memory, on a stream of their own, while the next ones are waited for."""

from __future__ import annotations

from typing import Any, Final, Protocol

from slurmext.staging.errors import StagingError

PIECE_BYTES: Final = 32 << 20


class NoDevice(StagingError):
    """The device that was asked for is not there."""


class Device(Protocol):
    """Somewhere tensors can be put."""

    def put(self, tensor: Any) -> Any:
        """A copy there; work queued on the caller's stream sees it whole."""
        ...


def device_of(to: Any) -> Device | None:
    """The device named; None for the CPU, where tensors are already. Raises NoDevice."""
    if to is None:
        return None
    import torch  # noqa: PLC0415

    try:
        device = torch.device(to)
    except RuntimeError as error:
        raise NoDevice(f"to={to!r}: {str(error).splitlines()[0]}") from error
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        return _Plain(device)
    if not torch.cuda.is_available():
        raise NoDevice(f"to={to!r}: torch {torch.__version__} sees no GPU here; ask for one (--gpus), or leave to= out")
    return Pinned(torch, device, torch.cuda)


class _Plain:
    def __init__(self, device: Any) -> None:
        self._device = device

    def put(self, tensor: Any) -> Any:
        return tensor.to(self._device)


class Pinned:
    """Copies by turns through two pinned buffers; `streams` is torch.cuda, or what stands in for it."""

    def __init__(self, torch: Any, device: Any, streams: Any, *, piece_bytes: int = PIECE_BYTES) -> None:
        self._torch = torch
        self._device = device
        self._streams = streams
        self._side = streams.Stream(device)
        pinned = torch.device(device).type == "cuda"
        self._buffers = [torch.empty(piece_bytes, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._copied: list[Any] = [None, None]
        self._turn = 0

    def put(self, tensor: Any) -> Any:
        torch = self._torch
        there = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        if not tensor.numel():
            return there
        # Bytes, since not every type can be copied between all kinds of memory; only a divided one is not contiguous.
        source = tensor.contiguous().reshape(-1).view(torch.uint8)
        target = there.reshape(-1).view(torch.uint8)
        here = self._streams.current_stream(self._device)
        self._side.wait_stream(here)  # its memory may still be in use by what was queued before
        step = len(self._buffers[0])
        for begin in range(0, len(source), step):
            end = min(begin + step, len(source))
            turn, self._turn = self._turn, 1 - self._turn
            if self._copied[turn] is not None:
                self._copied[turn].synchronize()
            piece = self._buffers[turn][: end - begin]
            piece.copy_(source[begin:end])
            with self._streams.stream(self._side):
                target[begin:end].copy_(piece, non_blocking=True)
                self._copied[turn] = self._side.record_event()
        here.wait_stream(self._side)
        there.record_stream(self._side)
        return there
