"""Who is asked for which chunks: shares dealt in stripes, and moved when one source is done before another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

STRIPE: Final = 8
"""Chunks dealt to one source at a time, so that it can send them in one go."""
LEAST_MOVED: Final = 2 * STRIPE


def deal(chunks: Sequence[int], shares: Mapping[str, float]) -> dict[str, list[int]]:
    """Ascending chunks dealt to sources in proportion to their shares, each source's spread over the whole."""
    names = sorted(shares)
    if len(names) == 1:
        return {names[0]: list(chunks)}
    total = sum(shares.values())
    weights = {name: (shares[name] / total if total > 0 else 1 / len(names)) for name in names}
    dealt: dict[str, list[int]] = {name: [] for name in names}
    credit = dict.fromkeys(names, 0.0)
    for at in range(0, len(chunks), STRIPE):
        for name in names:
            credit[name] += weights[name]
        best = max(names, key=lambda name: (credit[name], name))
        credit[best] -= 1
        dealt[best] += chunks[at : at + STRIPE]
    return dealt


def moved(left: Sequence[int]) -> list[int]:
    """What a source that is done takes over of another's `left` (ascending): the later half, or nothing."""
    return list(left[len(left) // 2 :]) if len(left) >= LEAST_MOVED else []
