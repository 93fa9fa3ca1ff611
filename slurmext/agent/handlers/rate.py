"""How often a job may report: each report costs the controller a write to its database."""

from __future__ import annotations

from collections import deque
from threading import Lock

from cachetools import LRUCache

from slurmext.agent.node import Refused

_MOST_JOBS = 10_000


class Rate:
    """At most `most` reports of a job in `per_s` seconds."""

    def __init__(self, *, most: int, per_s: float, what: str) -> None:
        self._most, self._per_s, self._what = most, per_s, what
        self._lock = Lock()
        self._times = LRUCache[int, deque[float]](_MOST_JOBS)

    def admit(self, job_id: int, now_s: float) -> None:
        """Count one. Raises Refused."""
        with self._lock:
            times = self._times.setdefault(job_id, deque(maxlen=self._most))
            if len(times) == self._most and now_s - times[0] < self._per_s:
                raise Refused(
                    f"more than {self._most} {self._what} of job {job_id} in {self._per_s:g} s: save less often"
                )
            times.append(now_s)
