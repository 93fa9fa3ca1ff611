"""How fast a model comes. Its bytes arrive in runs: over RDMA, on a slow link, seconds lie between two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_SPAN_S: Final = 0.2
"""Shorter spans say little."""


@dataclass(slots=True, eq=False)
class Arrivals:
    """`rate_bps`: bits per second, 0 until something came."""

    at_s: float
    ready_bytes: int
    came_bytes: int = 0
    rate_bps: float = 0.0

    def rate(self, ready_bytes: int, now_s: float) -> float:
        """Now that so much is here. While nothing comes, it is at most what would be if as much as the last time came
        this moment: a link that has become slow is seen before its next run is there.
        """
        span_s, came = now_s - self.at_s, ready_bytes - self.ready_bytes
        if span_s < _SPAN_S:
            return self.rate_bps
        if not came and self.rate_bps:
            return min(self.rate_bps, self.came_bytes * 8 / span_s)
        self.at_s, self.ready_bytes, self.came_bytes = now_s, ready_bytes, came
        self.rate_bps = max(0, came) * 8 / span_s
        return self.rate_bps
