"""What jobs of slices ask for, counted as they come: what is left free on a card is judged by what it could take of it.

Kept in memory: a daemon that begins goes by the jobs at hand until it has seen some.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from slurmext.model.slicing import SliceDemand, SliceJob

HALF_LIFE_S = 3600.0
"""A job that came so long ago counts half."""
MOST_KINDS = 32
"""More kinds of requests say no more about where slices should go, and each costs time."""


class Demand:
    """Each job counts once, when it is first seen; those with the most weight are told."""

    def __init__(self) -> None:
        self._weights = dict[SliceDemand, float]()
        self._seen = frozenset[str]()
        self._now_s = 0.0

    def see(self, jobs: Iterable[SliceJob], now_s: float) -> tuple[SliceDemand, ...]:
        """The mix, with the jobs that are here now."""
        listed = list(jobs)
        faded = 0.5 ** (max(0.0, now_s - self._now_s) / HALF_LIFE_S)
        self._weights = {kind: weight * faded for kind, weight in self._weights.items()}
        self._now_s = now_s
        for job in listed:
            if job.id not in self._seen:
                kind = SliceDemand(need=job.need, cpus=job.cpus, memory_per_node_mib=job.memory_per_node_mib,
                                   types=job.types, choice=job.choice)  # fmt: skip
                self._weights[kind] = self._weights.get(kind, 0.0) + 1.0
        self._seen = frozenset(job.id for job in listed)
        most = sorted(self._weights.items(), key=lambda pair: (-pair[1], repr(pair[0])))[:MOST_KINDS]
        self._weights = dict(most)
        return tuple(replace(kind, weight=round(weight, 3)) for kind, weight in most if weight > 0.001)  # noqa: PLR2004
