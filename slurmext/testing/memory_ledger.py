"""What MemoryStore knows of preemptions and checkpoints."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from slurmext.model.state import CheckpointRecord, JobKey, PreemptionRecord

if TYPE_CHECKING:
    import threading
    from collections.abc import Collection, Iterable, Mapping


class MemoryLedger:
    """The ledger, and checkpoints that jobs confirmed, in lists."""

    _lock: threading.RLock

    def __init__(self) -> None:
        super().__init__()
        self._preemptions: list[PreemptionRecord] = []
        self._checkpoints: list[CheckpointRecord] = []

    def _require_up(self) -> None: ...

    def _require_controller(self, token: int) -> None: ...

    def record_preemption(self, token: int, record: PreemptionRecord) -> None:
        with self._lock:
            self._require_controller(token)
            if not any(r.victim == record.victim and r.ended_s == record.ended_s for r in self._preemptions):
                self._preemptions.append(record)

    def preemptions(
        self, *, job_id: str | None = None, since_s: float | None = None, limit: int = 100
    ) -> list[PreemptionRecord]:
        with self._lock:
            self._require_up()
            found = [
                record
                for record in self._preemptions
                if job_id in {None, record.victim.job_id} and (since_s is None or record.ended_s >= since_s)
            ]
        found.sort(key=lambda record: record.ended_s)
        return found[::-1][:limit]

    def preemption_counts(self, keys: Iterable[JobKey]) -> Mapping[JobKey, int]:
        with self._lock:
            self._require_up()
            counts = Counter(record.victim for record in self._preemptions)
        return {key: counts[key] for key in keys}

    def record_checkpoint(self, record: CheckpointRecord) -> None:
        with self._lock:
            self._require_up()
            same = ("job_id", "saved_s", "node", "step", "path")
            if not any(all(getattr(r, n) == getattr(record, n) for n in same) for r in self._checkpoints):
                self._checkpoints.append(record)

    def last_checkpoints(self, job_ids: Collection[str]) -> Mapping[str, CheckpointRecord]:
        with self._lock:
            self._require_up()
            newest = sorted(self._checkpoints, key=lambda record: record.saved_s)
        return {record.job_id: record for record in newest if record.job_id in job_ids}

    def checkpoints(self, *, job_id: str | None = None, limit: int = 100) -> list[CheckpointRecord]:
        with self._lock:
            self._require_up()
            found = [record for record in self._checkpoints if job_id in {None, record.job_id}]
        found.sort(key=lambda record: record.saved_s)
        return found[::-1][:limit]

    def last_left(self, keys: Iterable[JobKey], reason: str) -> Mapping[JobKey, float]:
        with self._lock:
            self._require_up()
            lines = sorted(self._preemptions, key=lambda record: record.ended_s)
        asked = set(keys)
        return {line.victim: line.ended_s for line in lines if line.reason == reason and line.victim in asked}
