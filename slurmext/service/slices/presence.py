"""Since when agents are there or away, as this daemon saw it: one that has just begun knows nothing of before."""

from __future__ import annotations

from collections.abc import Collection, Iterable


class Presence:
    """Of the nodes it was last shown."""

    def __init__(self) -> None:
        self._since_s = dict[str, tuple[bool, float]]()
        self._now_s = 0.0

    def see(self, nodes: Iterable[str], connected: Collection[str], now_s: float) -> None:
        """These nodes matter now, and agents of those in `connected` are there."""
        self._now_s = now_s
        seen = dict[str, tuple[bool, float]]()
        for node in set(nodes):
            here = node in connected
            before = self._since_s.get(node)
            seen[node] = before if before is not None and before[0] is here else (here, now_s)
        self._since_s = seen

    def is_here(self, node: str) -> bool:
        """Whether its agent is there now."""
        known = self._since_s.get(node)
        return known is not None and known[0]

    def here_s(self, node: str) -> float:
        """How long its agent has been there; 0 for one that is away."""
        return self._for_s(node, here=True)

    def away_s(self, node: str) -> float:
        """How long its agent has been away; 0 for one that is there."""
        return self._for_s(node, here=False)

    def _for_s(self, node: str, *, here: bool) -> float:
        known = self._since_s.get(node)
        return self._now_s - known[1] if known is not None and known[0] is here else 0.0
