"""A few threads that do the same kind of work side by side, for as long as the process lives.

They are daemon threads, kept rather than started anew: a save that is under way when the program ends is finished by a
thread that the interpreter waits for, at a time when no new ones can be started.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any


class Crew:
    """`size` threads, the caller's included. `each` runs a function over items with all of them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._started = 0
        self._owner = os.getpid()

    def each(self, work: Callable[[Any], object], items: Iterable[Any]) -> None:
        """Call `work` with every item, in any order; the first exception stops the others and is raised.

        Nobody waits for a thread that gets no processor: who is there does the work.
        """
        if os.getpid() != self._owner:
            self._tasks, self._started, self._owner = queue.SimpleQueue(), 0, os.getpid()
        turn = _Round(work, items)
        helpers = min(self.size, len(turn.left)) - 1
        while self._started < helpers:
            threading.Thread(target=self._serve, args=(self._tasks,), name="slurmext-ckpt-io", daemon=True).start()
            self._started += 1
        for _ in range(helpers):
            self._tasks.put(turn.take_part)
        turn.take_part()
        turn.wait()

    @staticmethod
    def _serve(tasks: queue.SimpleQueue[Callable[[], None]]) -> None:
        while True:
            tasks.get()()


class _Round:
    """One call of `each`."""

    def __init__(self, work: Callable[[Any], object], items: Iterable[Any]) -> None:
        self.left = deque(items)
        self._work = work
        self._running = 0
        self._changed = threading.Condition()
        self._failed: BaseException | None = None

    def take_part(self) -> None:
        while True:
            with self._changed:
                if self._failed is not None or not self.left:
                    return
                item = self.left.popleft()
                self._running += 1
            problem: BaseException | None = None
            try:
                self._work(item)
            except BaseException as error:  # noqa: BLE001 - raised by `wait`
                problem = error
            with self._changed:
                self._failed = self._failed or problem
                self._running -= 1
                if not self._running:
                    self._changed.notify_all()

    def wait(self) -> None:
        """Until the items that others have begun are done."""
        with self._changed:
            while self._running:
                self._changed.wait()
        if self._failed is not None:
            raise self._failed


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
