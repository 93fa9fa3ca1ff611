"""A model's state of a wanted size: parameters and Adam's two moments of a transformer, in many tensors."""

from __future__ import annotations

import torch

GB = 10**9
State = dict[str, dict[str, torch.Tensor]]
LAYERS, PER_LAYER = 11, 12


def new_state(size_bytes: float, seed: int = 0) -> State:
    """402 tensors of about `size_bytes` in all: 134 parameters like GPT-2's and as many of either moment."""
    wide = max(int((size_bytes / 12 / (LAYERS * 12.3 + 4)) ** 0.5) // 8 * 8, 8)
    shapes: dict[str, tuple[int, ...]] = {"embed": (4 * wide, wide), "norm.w": (wide,)}
    for layer in range(LAYERS):
        shapes |= {f"h{layer}.{name}": shape for name, shape in {
            "ln1.w": (wide,), "ln1.b": (wide,), "qkv.w": (3 * wide, wide), "qkv.b": (3 * wide,), "out.w": (wide, wide),
            "out.b": (wide,), "ln2.w": (wide,), "ln2.b": (wide,), "up.w": (4 * wide, wide), "up.b": (4 * wide,),
            "down.w": (wide, 4 * wide), "down.b": (wide,),
        }.items()}  # fmt: skip
    chance = torch.Generator().manual_seed(seed)
    return {
        kind: {name: torch.rand(shape, generator=chance) for name, shape in shapes.items()}
        for kind in ("weights", "mean", "square")
    }


def flat(state: State) -> dict[str, torch.Tensor]:
    """One mapping, as DCP likes it."""
    return {f"{kind}.{name}": tensor for kind, group in state.items() for name, tensor in group.items()}


def nbytes(state: State) -> int:
    """Bytes in all tensors."""
    return sum(tensor.nbytes for tensor in flat(state).values())


def change(state: State) -> None:
    """As a training step: everything is another."""
    for tensor in flat(state).values():
        tensor.add_(1)


class Training:
    """A loop that keeps every core busy and changes the whole state, like an optimizer, bit by bit."""

    def __init__(self, state: State) -> None:
        self._tensors = list(flat(state).values())
        self._left = torch.rand(1024, 1024)
        self._right = torch.rand(1024, 1024)
        self._at = 0

    def step(self) -> None:
        """Some tens of milliseconds: matrix products, and an update of a tenth of the state."""
        for _ in range(4):
            torch.mm(self._left, self._right)
        count = len(self._tensors) // 10
        for tensor in self._tensors[self._at : self._at + count]:
            tensor.mul_(0.999)
        self._at = (self._at + count) % len(self._tensors)
