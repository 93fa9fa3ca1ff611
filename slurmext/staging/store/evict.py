"""What has to go when room is needed: whatever is cheapest to do without, never what is pinned."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A model that takes room: bytes, how it was used, and what fetching it again would take."""

    name: str
    size: int
    pinned: bool
    used_s: float
    uses: int = 1
    refetch_bytes_per_s: float = 1e8
    half_life_s: float = 86400.0

    def worth(self, now_s: float) -> float:
        """Seconds of fetching that keeping it is expected to save, for each byte it takes.

        Fetching takes a second to begin with, so of two equally used models the small one is worth more per byte.
        Uses lose half their weight in each half-life since the last.
        """
        refetch_s = 1.0 + self.size / self.refetch_bytes_per_s
        likely = self.uses * math.exp2(-max(0.0, now_s - self.used_s) / self.half_life_s)
        return refetch_s * likely / max(1, self.size)


def victims(residents: Iterable[Resident], needed: int, now_s: float) -> tuple[Resident, ...] | None:
    """Which models to evict for `needed` bytes, cheapest first; None when the unpinned are not enough.

    None is taken that is not needed after all: the largest that can stay are put back.
    """
    if needed <= 0:
        return ()
    free = sorted(
        (resident for resident in residents if not resident.pinned), key=lambda one: (one.worth(now_s), one.name)
    )
    chosen: list[Resident] = []
    total = 0
    for resident in free:
        if total >= needed:
            break
        chosen.append(resident)
        total += resident.size
    if total < needed:
        return None
    for resident in sorted(chosen, key=lambda one: (-one.worth(now_s), one.name)):
        if total - resident.size >= needed:
            chosen.remove(resident)
            total -= resident.size
    return tuple(chosen)
