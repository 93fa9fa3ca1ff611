"""What a checkpoint costs: training time lost, by the stall for the snapshot and by steps that take longer while it is
written. Standard library only.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slurmext.checkpoint.interval import Interval

_FEWEST_STEPS = 4
"""Fewer steps than these, counted while a checkpoint was written, say nothing about how long they take."""


class CostMeter:
    """For a loop whose every step is seen. Times in seconds of one clock; `step` and the others in any thread.

    `began` before a snapshot is taken, `ended` when it is on disk; `step` at the end of each step returns what the
    checkpoint cost once that is known. Never more than the time it took: an evaluation in such a step is no cost.
    """

    def __init__(self, keep: int = 50) -> None:
        self._lock = threading.Lock()
        self._usual: deque[float] = deque(maxlen=keep)
        self._during: list[float] = []
        self._last_s: float | None = None
        self._began_s: float | None = None
        self._under_way = self._saves = 0
        self._wall_s = 0.0

    def began(self, now_s: float) -> None:
        """A save begins."""
        with self._lock:
            self._began_s = now_s if not self._under_way else self._began_s
            self._under_way += 1
            self._saves += 1

    def ended(self, now_s: float) -> None:
        """It is on disk, or has failed."""
        with self._lock:
            self._under_way -= 1
            if not self._under_way and self._began_s is not None:
                self._wall_s += now_s - self._began_s

    def step(self, now_s: float) -> float | None:
        """A step has ended; the seconds that one checkpoint cost, when this was the first step after it."""
        with self._lock:
            last_s, self._last_s = self._last_s, now_s
            if last_s is None:
                return None
            if not self._saves:
                self._usual.append(now_s - last_s)
                return None
            self._during.append(now_s - last_s)
            if self._under_way:
                return None
            during, wall_s, saves = self._during, self._wall_s, self._saves
            self._during, self._wall_s, self._saves = [], 0.0, 0
            if not self._usual:
                return None  # it was saved in its very first step
            usual_s = median(self._usual)
            return min(max(sum(seconds - usual_s for seconds in during), 0.0), wall_s) / saves


class CountedCost:
    """For a loop that is not seen, but for the number of its finished steps when something happens."""

    def __init__(self) -> None:
        self._free: tuple[int, float] | None = None
        self._usual_s: float | None = None
        self._began_s = 0.0
        self._taken: tuple[int, float] = 0, 0.0

    def began(self, step: int, now_s: float) -> None:
        """A save begins after so many steps."""
        if self._free is not None and step - self._free[0] >= _FEWEST_STEPS:
            self._usual_s = (now_s - self._free[1]) / (step - self._free[0])
        self._began_s = now_s

    def taken(self, step: int, now_s: float) -> None:
        """Its snapshot is taken; training goes on."""
        self._taken = step, now_s

    def ended(self, step: int, now_s: float) -> float:
        """It is on disk, after so many steps; returns what it cost, in seconds."""
        step_taken, taken_s = self._taken
        self._free = step, now_s
        slower_s = 0.0
        if self._usual_s is not None and step - step_taken >= _FEWEST_STEPS:
            slower_s = max(0.0, now_s - taken_s - (step - step_taken) * self._usual_s)
        return taken_s - self._began_s + slower_s


class Costs:
    """Tells `interval` what each save to the directory costs, by `meter` where every step is seen."""

    def __init__(self, interval: Interval) -> None:
        self._interval = interval
        self.meter: CostMeter | None = None
        """For adapters that see every step: what a save costs is theirs to tell `interval` then."""
        self._counted = CountedCost()

    def began(self, step: int) -> None:
        """A save begins after so many steps."""
        if self.meter is not None:
            self.meter.began(time.monotonic())
        self._counted.began(step, time.monotonic())

    def taken(self, step: int) -> None:
        """Its snapshot is taken; training goes on."""
        self._counted.taken(step, time.monotonic())

    def ended(self, step: int, *, good: bool) -> None:
        """It is on disk, after so many steps, or (`good`) has failed and says nothing of what one costs."""
        cost_s = self._counted.ended(step, time.monotonic())
        if self.meter is not None:
            self.meter.ended(time.monotonic())
        elif good:
            self._interval.cost(cost_s)
