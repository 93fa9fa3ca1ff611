"""What a policy does at certain times or with time: calendars, scheduled defragmentation, use that fades."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from slurmext.model.queue import Queue
from slurmext.model.snapshot import Defragment
from slurmext.policy.past_use import faded

QueuesAt = Callable[[float], tuple[Sequence[Queue], float | None]]
"""Seconds -> the queues from then on, and when they change next (None: never)."""


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
        elapsed_s = 0.0 if self._at_s is None else now_s - self._at_s
        self._at_s = now_s
        self.gpus = faded(self.gpus, self.borrowed, elapsed_s, self.half_life_s)
