"""What the controller hears of copies: enough to know where each checkpoint is, not every step of each."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from cachetools import FIFOCache

from slurmext.agent.copies.passing import REMEMBERED
from slurmext.agent.copies.store import MANIFEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurmext.agent.copies.store import Kept
    from slurmext.agent.spool import EventSpool

PROGRESS_S: Final = 5.0
ONLY_S: Final = 10.0
"""The controller hears of a job's saves in memory so often at most."""


class Telling:
    """Of one node; from any thread."""

    def __init__(self, events: EventSpool) -> None:
        self._events = events
        self._lock = threading.Lock()
        self._stated_s = FIFOCache[tuple[int, str], float](REMEMBERED)
        self._told_s = FIFOCache[tuple[int, str], float](REMEMBERED)
        self._untold = FIFOCache[int, set[str]](REMEMBERED)
        self._past = FIFOCache[int, list[str]](REMEMBERED)

    def progress(self, job_id: int, uid: int, name: str, size: int, done: int) -> None:
        """`done` of a file's `size` bytes are here."""
        key, now = (job_id, name), time.monotonic()
        with self._lock:
            if now - self._stated_s.setdefault(key, now) <= PROGRESS_S or done >= size:
                return
            self._stated_s[key] = now
        self._events.add(
            "ckpt_copy", job_id=job_id, uid=uid, name=name, tier="memory", size_bytes=size, done_bytes=done
        )

    def here(self, job_id: int, name: str, tier: str, kept: Sequence[Kept]) -> None:
        """Of a job these files are here."""
        mine = [item for item in kept if item.name == name]
        if not any(item.file == MANIFEST for item in mine):  # it comes last: before that this is no checkpoint
            return
        if mine[0].only and self._told_lately(job_id, name, tier):
            return
        size = sum(item.size for item in mine)
        self._events.add("ckpt_copy", job_id=job_id, name=name, tier=tier, size_bytes=size, done_bytes=size)
        with self._lock:
            past = self._past.pop(job_id, [])
        self._are_gone(job_id, past)

    def gone(self, job_id: int, name: str) -> None:
        """A checkpoint is here no more.

        One that the controller was told of stands for newer ones that it was not told of: else it would take this node
        for one without any, and nobody would look here for them.
        """
        with self._lock:
            untold, past = self._untold.get(job_id, set()), self._past.pop(job_id, [])
            if name in untold:
                untold.discard(name)
            else:
                past.append(name)
            if untold:
                self._past[job_id] = past
                return
            self._untold.pop(job_id, None)
        self._are_gone(job_id, past)

    def _are_gone(self, job_id: int, names: Sequence[str]) -> None:
        for name in names:
            self._events.add("ckpt_copy", job_id=job_id, name=name, tier="memory", size_bytes=0, done_bytes=0)

    def _told_lately(self, job_id: int, name: str, tier: str) -> bool:
        """Whether the controller was told of a save in memory just now: they may come every second, on every node."""
        now = time.monotonic()
        with self._lock:
            if now - self._told_s.get((job_id, tier), -ONLY_S) < ONLY_S:
                self._untold.setdefault(job_id, set()).add(name)
                return True
            self._told_s[job_id, tier] = now
        return False
