"""What a policy does at certain times or with time: calendars, scheduled defragmentation, use that fades."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from slurmext.model.queue import Queue
from slurmext.model.snapshot import Defragment

QueuesAt = Callable[[float], tuple[Sequence[Queue], float | None]]
"""Seconds -> the queues from then on, and when they change next (None: never)."""

PATIENCE_S = 300.0
"""The wish for defragmentation lapses when for so long others were evicted, or nothing was worth moving."""
_FORGOTTEN = 0.01
"""GPUs. A queue that borrowed less on average is as good as new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tidy:
    """Defragmentation by a schedule: what is wished for, and when it is due next after a time (None: never)."""

    wish: Defragment
    after: Callable[[float], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """All of it, in seconds of the trace. `half_life_s`: after how long what a queue borrowed counts half."""

    queues_at: QueuesAt | None = None
    tidy: Tidy | None = None
    half_life_s: float = 86400


@dataclass(slots=True)
class Past:
    """GPUs that queues borrowed on average, by path, what is a half-life ago counting half. `borrowed` is what they
    borrow from the last time on.
    """

    half_life_s: float
    borrowed: dict[str, int] = field(default_factory=dict[str, int])
    gpus: dict[str, float] = field(default_factory=dict[str, float])
    _at_s: float | None = None

    def bring_up(self, now_s: float) -> None:
        """Work out the mean at `now_s`."""
        weight = 1.0 if self._at_s is None else 0.5 ** ((now_s - self._at_s) / self.half_life_s)
        self._at_s = now_s
        found = {
            path: weight * self.gpus.get(path, 0.0) + (1 - weight) * self.borrowed.get(path, 0)
            for path in sorted({*self.gpus, *self.borrowed})
        }
        self.gpus = {path: gpus for path, gpus in found.items() if gpus >= _FORGOTTEN}
