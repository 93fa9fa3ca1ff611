"""Amounts in words, for messages."""

from __future__ import annotations

_SHOWN = 2
"""Decimals of a part of a GPU."""


def amount(number: float) -> str:
    """`2`, `0.43`: at most two decimals."""
    return f"{round(number, _SHOWN):g}"


def counted(number: float, thing: str) -> str:
    """`1 GPU`, `2 GPUs`, `0.14 GPUs`."""
    return f"{amount(number)} {thing}{'' if number == 1 else 's'}"
