"""What the jobs of this node use of their slices: memory always, SM use where the card tells (Hopper and later)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurmext.agent.slices.records import Piece, Stage
from slurmext.errors import GpuDriverError, SlurmextError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slurmext.agent.mps.police import ShareUse
    from slurmext.agent.slices.journal import Book
    from slurmext.agent.slices.maker import Maker
    from slurmext.agent.slices.records import Made, Reservation
    from slurmext.agent.spool import EventSpool
    from slurmext.ports import SliceDriver

FIRST_S, EVERY_S = 60.0, 300.0
"""How long after a job's start its use is told for the first time, and how often from then on; and at its end."""


@dataclass(slots=True, kw_only=True)
class _Seen:
    reservation: Reservation
    limit_mib: int | None = None
    memory_mib: int | None = None
    peak_mib: int | None = None
    sm_sum: float = 0.0
    sm_count: int = 0
    sm_peak: float | None = None
    samples: int = 0
    told_s: float = 0.0


class Usage:
    """`look` takes a sample of every live job; of several slices of a job the fullest counts."""

    def __init__(
        self, book: Book, maker: Maker, driver: SliceDriver, events: EventSpool, *, now: Callable[[], float] = time.time
    ) -> None:
        self._book, self._maker, self._driver, self._events, self._now = book, maker, driver, events, now
        self._seen: dict[str, _Seen] = {}

    def look(self, shares: Sequence[ShareUse] = ()) -> None:
        """Sample, and tell what is due. `shares` is what the police just saw."""
        live = {each.reservation: each for each in self._book.reservations() if each.stage is Stage.LIVE}
        for name in [name for name in self._seen if name not in live]:
            self._tell(self._seen.pop(name), final=True)
        for name, reservation in live.items():
            seen = self._seen.setdefault(name, _Seen(reservation=reservation))
            for made in self._book.made(reservation=name):
                if made.piece is Piece.BUSY:
                    self._sample(seen, made)
        for use in shares:
            if (seen := self._seen.get(use.reservation.reservation)) is not None:
                self._add(seen, use.used_mib, None, use.limit_mib)
        for seen in self._seen.values():
            if self._now() - seen.told_s >= EVERY_S and self._now() - (seen.reservation.began_s or 0) >= FIRST_S:
                self._tell(seen)

    def _sample(self, seen: _Seen, made: Made) -> None:
        try:
            use = self._driver.use(made.gpu, made.instance)
            geometry = self._maker.card(made.gpu).geometry
        except (GpuDriverError, SlurmextError):
            return
        profile = geometry.profile(made.profile) if geometry else None
        self._add(seen, use.memory_mib, use.sm_pct, profile.memory_mib if profile else None)

    def _add(self, seen: _Seen, memory_mib: int | None, sm_pct: float | None, limit_mib: int | None) -> None:
        seen.samples += 1
        seen.limit_mib = limit_mib or seen.limit_mib
        if memory_mib is not None:
            seen.memory_mib, seen.peak_mib = memory_mib, max(memory_mib, seen.peak_mib or 0)
        if sm_pct is not None:
            seen.sm_sum, seen.sm_count = seen.sm_sum + sm_pct, seen.sm_count + 1
            seen.sm_peak = max(sm_pct, seen.sm_peak or 0.0)

    def _tell(self, seen: _Seen, *, final: bool = False) -> None:
        if not seen.samples:
            return
        mean = round(seen.sm_sum / seen.sm_count, 1) if seen.sm_count else None
        job = seen.reservation
        self._events.add("slice_sample", job_id=job.job_id, uid=job.uid, job=job.job, reservation=job.reservation,
                         memory_mib=seen.limit_mib, memory_now_mib=seen.memory_mib, memory_peak_mib=seen.peak_mib,
                         sm_pct=mean, sm_mean_pct=mean, sm_peak_pct=seen.sm_peak, samples=seen.samples,
                         final=final)  # fmt: skip
        seen.told_s = self._now()
