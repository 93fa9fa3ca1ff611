"""When to save without being asked: now and then, in memory, and before the time limit; and not too often."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from slurmext.checkpoint import deadline
from slurmext.checkpoint.leaving import TERM_AFTER_SAVE_S
from slurmext.checkpoint.reasons import DEADLINE, MEMORY, TERM, TIME, URGENT, Reason

_STORM_S = 1.0
_AGAIN_S = 30.0
"""After a save that failed, the next one that nobody asked for comes no sooner."""
_BEFORE_END_S = 5.0
_FIRST_SAVE_S = 5.0


class Schedule:
    """Of one process; only the one that `leads` its job's ranks keeps time. All times are of time.monotonic, but that
    of the job's end. `every_s`: seconds between saves that nobody asked for, None for none.
    """

    def __init__(self, every_s: Callable[[], float | None], *, leads: bool, watch_deadline: bool) -> None:
        self._every_s, self._leads = every_s, leads
        self.memory_every_s: Callable[[], float | None] = lambda: None
        """Seconds from any save to the next one in memory, None for none now."""
        self.grace_s = deadline.grace_s()
        self._watches = watch_deadline and leads and "SLURM_JOB_ID" in os.environ
        self._end_s: float | None = None
        self._deadline_done_s = 0.0
        self._last_save_s = self._last_memory_s = time.monotonic()
        self._last_urgent_s = -TERM_AFTER_SAVE_S
        self._not_before_s = self._rests_until_s = 0.0
        self._save_s = _FIRST_SAVE_S  # how long a save took lately, from its decision until it was on disk

    def watch(self, wake: Callable[[], object]) -> None:
        """Learn when the job's time limit ends; `wake` is called when that is known later."""
        if not self._watches:
            return
        self._end_s = deadline.known_end_s()
        if self._end_s is None:  # a controller that is slow to answer must not keep the caller from hearing
            threading.Thread(target=self._learn_end, args=(wake,), name="slurmext-deadline", daemon=True).start()

    def due(self, *, busy: bool) -> Reason | None:
        """Why to save now, if so. `busy`: one to the directory is under way."""
        now = time.monotonic()
        if not self._leads:
            return None
        if (save_s := self._until_save_s(now)) is not None and save_s <= 0 and not busy:
            return TIME
        if self._at_deadline():
            return DEADLINE
        if (memory_s := self._until_memory_s(now)) is not None and memory_s <= 0:
            return MEMORY
        return None

    def pause_s(self, *, busy: bool) -> float:
        """Until `due` may have something to say, a minute at most."""
        pause_s, now = 60.0, time.monotonic()
        if self._leads and (save_s := self._until_save_s(now)) is not None and not busy:
            pause_s = min(pause_s, save_s)
        if self._leads and (memory_s := self._until_memory_s(now)) is not None:
            pause_s = min(pause_s, memory_s)
        if self._end_s is not None:
            pause_s = min(pause_s, max(1.0, deadline.seconds_left(self._save_by_s())))
        return pause_s

    def too_soon_s(self, reason: Reason) -> float:
        """For how long a save for this reason has to wait, 0 for not at all: signals may come by the hundred."""
        return 0.0 if reason == TERM else max(0.0, self._not_before_s - time.monotonic())

    def answered(self) -> bool:
        """Whether a TERM now is about the same end as a save that was made a moment ago."""
        return time.monotonic() - self._last_urgent_s < TERM_AFTER_SAVE_S

    def taken(self, *, in_memory: bool = False) -> None:
        """A save has begun, or been passed over: the next of its kind is due as long after this."""
        if in_memory:
            self._last_memory_s = time.monotonic()
        else:
            self._last_save_s = time.monotonic()

    def done(self, reason: Reason, began_s: float) -> None:
        """A save is on disk."""
        now = self._last_save_s = time.monotonic()
        self._save_s = max(0.05, now - began_s)
        if reason in URGENT:
            self._last_urgent_s = now
            self._spread(now, began_s)

    def failed(self, reason: Reason, began_s: float) -> None:
        """A save is not on disk: nobody may take it for one, and it is not tried again at once."""
        now = self._last_save_s = time.monotonic()
        self._rests_until_s = now + _AGAIN_S
        if reason in URGENT:
            self._spread(now, began_s)

    def _spread(self, now: float, began_s: float) -> None:
        self._not_before_s = now + max(_STORM_S, 3 * (now - began_s))

    def _until_save_s(self, now: float) -> float | None:
        every_s = self._every_s()
        return None if every_s is None else max(self._last_save_s + every_s, self._rests_until_s) - now

    def _until_memory_s(self, now: float) -> float | None:
        every_s = self.memory_every_s()
        return None if every_s is None else max(self._last_save_s, self._last_memory_s) + every_s - now

    def _learn_end(self, wake: Callable[[], object]) -> None:
        if found := deadline.ask_slurm():
            self._end_s = found[1]
            wake()

    def _save_by_s(self) -> float:
        return (self._end_s or 0.0) - self.grace_s - 2 * self._save_s - _BEFORE_END_S

    def _at_deadline(self) -> bool:
        if self._end_s is None or self._deadline_done_s == self._end_s:
            return False
        if time.time() < self._save_by_s():
            return False
        found = deadline.ask_slurm()  # the limit may have been raised
        if found and found[1] and found[1] != self._end_s:
            self._end_s = found[1]
            return self._at_deadline()
        self._deadline_done_s = self._end_s
        return True
