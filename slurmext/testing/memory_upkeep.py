"""What MemoryStore knows of checkpoints' costs and copies, and of failures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurmext.model.upkeep import CheckpointCopy, CheckpointCost, FailureRate, FailureRecord

if TYPE_CHECKING:
    import threading
    from collections.abc import Collection, Mapping


class MemoryUpkeep:
    """What UpkeepStore does, in dictionaries."""

    _lock: threading.RLock

    def __init__(self) -> None:
        super().__init__()
        self._costs: dict[str, CheckpointCost] = {}
        self._copies: dict[tuple[str, str, str], CheckpointCopy] = {}
        self._failures: list[FailureRecord] = []
        self._failure_rate = FailureRate()

    def _require_up(self) -> None: ...

    def _require_controller(self, token: int) -> None: ...

    def record_checkpoint_cost(self, record: CheckpointCost) -> None:
        with self._lock:
            self._require_up()
            known = self._costs.get(record.job_id)
            if known is None or known.at_s <= record.at_s:
                self._costs[record.job_id] = record

    def checkpoint_costs(self, job_ids: Collection[str]) -> Mapping[str, CheckpointCost]:
        with self._lock:
            self._require_up()
            return {job_id: self._costs[job_id] for job_id in job_ids if job_id in self._costs}

    def record_copy(self, record: CheckpointCopy) -> None:
        with self._lock:
            self._require_up()
            key = (record.job_id, record.node, record.name)
            self._copies.pop(key, None)
            if record.size_bytes:
                self._copies[key] = record

    def copies(self, *, job_id: str | None = None, node: str | None = None) -> list[CheckpointCopy]:
        with self._lock:
            self._require_up()
            found = [c for c in self._copies.values() if job_id in {None, c.job_id} and node in {None, c.node}]
            return sorted(found, key=lambda copy: (-copy.at_s, copy.node, copy.name))

    def record_failure(self, token: int, record: FailureRecord) -> None:
        with self._lock:
            self._require_controller(token)
            self._failures.append(record)

    def failures(self, *, since_s: float | None = None, limit: int = 100) -> list[FailureRecord]:
        with self._lock:
            self._require_up()
            found = [item for item in self._failures if since_s is None or item.at_s >= since_s]
            found.reverse()
            return sorted(found, key=lambda item: -item.at_s)[:limit]

    def save_failure_rate(self, token: int, rate: FailureRate) -> None:
        with self._lock:
            self._require_controller(token)
            self._failure_rate = rate

    def failure_rate(self) -> FailureRate:
        with self._lock:
            self._require_up()
            return self._failure_rate
