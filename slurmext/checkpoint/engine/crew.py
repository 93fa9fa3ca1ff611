"""A few threads that do the same kind of work side by side, for as long as the process lives.

They are daemon threads, kept rather than started anew: a save that is under way when the program ends is finished by a
thread that the interpreter waits for, at a time when no new ones can be started.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Any


class Crew:
    """`size` threads. `each` runs a function over items with all of them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._started = 0
        self._owner = os.getpid()

    def each(self, work: Callable[[Any], object], items: Iterable[Any]) -> None:
        """Call `work` with every item, in any order; the first exception stops the others and is raised."""
        waiting = iter(items)
        guard = threading.Lock()
        failed: list[BaseException] = []

        def member() -> None:
            while not failed:
                with guard:
                    item = next(waiting, self)
                if item is self:
                    return
                try:
                    work(item)
                except BaseException as error:  # noqa: BLE001 - raised by the caller
                    failed.append(error)

        self.run([member] * self.size)
        if failed:
            raise failed[0]

    def run(self, tasks: list[Callable[[], None]]) -> None:
        """Run these at once, the last one in the calling thread; returns when all are done. They must not raise."""
        if os.getpid() != self._owner:
            self._tasks, self._started, self._owner = queue.SimpleQueue(), 0, os.getpid()
        done = threading.Semaphore(0)

        def wrapped(task: Callable[[], None]) -> Callable[[], None]:
            def run() -> None:
                try:
                    task()
                finally:
                    done.release()

            return run

        while self._started < min(len(tasks) - 1, self.size):
            threading.Thread(target=self._serve, args=(self._tasks,), name="slurmext-ckpt-io", daemon=True).start()
            self._started += 1
        for task in tasks[:-1]:
            self._tasks.put(wrapped(task))
        tasks[-1]()
        for _ in tasks[:-1]:
            done.acquire()

    @staticmethod
    def _serve(tasks: queue.SimpleQueue[Callable[[], None]]) -> None:
        while True:
            tasks.get()()


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
