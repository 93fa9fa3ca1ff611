"""A thread for each user that has work: one whose file system hangs, or whose peer is slow, delays nobody else."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Item = TypeVar("Item")


class Lanes(Generic[Item]):
    """`work` is called with each item, a user's in the order they came; it raises nothing."""

    def __init__(self, name: str, work: Callable[[Item], None], stop: threading.Event) -> None:
        self._name, self._work, self._stop = name, work, stop
        self._lock = threading.Lock()
        self._waiting: dict[int, deque[Item]] = {}

    def waiting(self, uid: int) -> list[Item]:
        """What of a user's is not begun."""
        with self._lock:
            return list(self._waiting.get(uid, ()))

    def add(self, uid: int, items: Sequence[Item]) -> None:
        """More work of a user's."""
        with self._lock:
            idle = uid not in self._waiting
            self._waiting.setdefault(uid, deque()).extend(items)
        if idle:
            threading.Thread(target=self._run, args=(uid,), name=f"{self._name}-{uid}", daemon=True).start()

    def _run(self, uid: int) -> None:
        while not self._stop.is_set():
            with self._lock:
                if not self._waiting[uid]:
                    del self._waiting[uid]
                    return
                item = self._waiting[uid].popleft()
            self._work(item)
