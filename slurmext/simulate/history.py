"""What queues used, were owed and had waiting, second by second: step functions of time."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(slots=True)
class Steps:
    """A value that changes at moments of time and stays what it is in between; 0 before the first."""

    times_s: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))

    @property
    def now(self) -> float:
        """The value since the last change."""
        return self.values[-1] if self.values else 0.0

    def set(self, at_s: float, value: float) -> None:
        """The value from `at_s` on, which is not before the last change."""
        if self.times_s and self.times_s[-1] == at_s:
            self.values[-1] = value
        elif value != self.now:
            self.times_s.append(at_s)
            self.values.append(value)

    def add(self, at_s: float, change: float) -> float:
        """The same by difference; returns the new value."""
        value = self.now + change
        self.set(at_s, value)
        return value

    def means(self, edges_s: Sequence[float]) -> list[float]:
        """The mean over each stretch between two edges (in order of time)."""
        found = [0.0] * max(0, len(edges_s) - 1)
        count, at = len(self.times_s), 0
        value = 0.0
        for number, (begin, end) in enumerate(pairwise(edges_s)):
            while at < count and self.times_s[at] <= begin:
                value = self.values[at]
                at += 1
            total, since = 0.0, begin
            while at < count and self.times_s[at] < end:
                total += (self.times_s[at] - since) * value
                since, value = self.times_s[at], self.values[at]
                at += 1
            total += (end - since) * value
            found[number] = total / (end - begin) if end > begin else 0.0
        return found

    def mean(self, begin_s: float, end_s: float) -> float:
        """The mean over one stretch."""
        return self.means((begin_s, end_s))[0]


@dataclass(slots=True)
class QueueHistory:
    """One queue: GPUs in use, how many of those within the guarantee, what that was, and what waited.

    `evicted_s` are the moments at which one of its jobs had to leave or shrink for another.
    """

    used: Steps = field(default_factory=Steps)
    within: Steps = field(default_factory=Steps)
    guaranteed: Steps = field(default_factory=Steps)
    waiting_jobs: Steps = field(default_factory=Steps)
    waiting_gpus: Steps = field(default_factory=Steps)
    evicted_s: array[float] = field(default_factory=lambda: array("d"))

    def use(self, at_s: float, gpus: int) -> None:
        """`gpus` more (or fewer) are in use."""
        used = self.used.add(at_s, gpus)
        self.within.set(at_s, min(used, self.guaranteed.now))

    def guarantee(self, at_s: float, gpus: int) -> None:
        """So many are guaranteed from now on."""
        self.guaranteed.set(at_s, gpus)
        self.within.set(at_s, min(self.used.now, gpus))

    def wait(self, at_s: float, jobs: int, gpus: int) -> None:
        """So many more (or fewer) wait."""
        self.waiting_jobs.add(at_s, jobs)
        self.waiting_gpus.add(at_s, gpus)


@dataclass(slots=True)
class History:
    """All queues by path, and GPUs on nodes that work."""

    queues: dict[str, QueueHistory] = field(default_factory=dict[str, QueueHistory])
    gpus: Steps = field(default_factory=Steps)

    def of(self, queue: str) -> QueueHistory:
        """The queue's history, empty when nothing happened in it yet."""
        found = self.queues.get(queue)
        if found is None:
            found = self.queues[queue] = QueueHistory()
        return found
