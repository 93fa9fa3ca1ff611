"""The victims' ledger: who took what from whom. It only ever grows."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, insert, select

from slurmext.adapters.sql.models import Preemption
from slurmext.model.state import JobKey, PreemptionRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from slurmext.adapters.sql.engine import Database

FEW = 100
"""Jobs that are asked for one by one; for more, the whole ledger is followed in memory."""

_PREEMPTION = (
    "victim_user",
    "beneficiary",
    "reason",
    "from_queue",
    "to_queue",
    "gpus",
    "lost_gpu_s",
    "signalled_s",
    "confirmed_s",
    "ended_s",
)


class LedgerStore:
    """The ledger of one cluster.

    A cycle asks for the counts of every job. Lines are never changed or deleted, and are written under the
    controller's lock, so their ids are in order: after the first time only lines with a higher id are read.
    """

    _db: Database

    def __init__(self) -> None:
        super().__init__()
        self._ledger_lock = threading.Lock()
        self._counts: Counter[JobKey] = Counter()
        self._counted_id = 0

    def record_preemption(self, token: int, record: PreemptionRecord) -> None:
        """Add a line to the victim's ledger; the same victim and end again adds nothing."""
        values: dict[str, Any] = {name: getattr(record, name) for name in _PREEMPTION}
        key = {
            "cluster": self._db.cluster,
            "victim_job_id": record.victim.job_id,
            "victim_submit_s": record.victim.submit_s,
            "ended_s": record.ended_s,
        }
        with self._db.controlled(token) as connection:
            if connection.execute(select(Preemption.id).filter_by(**key)).first() is None:
                connection.execute(insert(Preemption).values(**values | key))

    def preemptions(
        self, *, job_id: str | None = None, since_s: float | None = None, limit: int = 100
    ) -> list[PreemptionRecord]:
        """Newest first."""
        columns = [getattr(Preemption, name) for name in _PREEMPTION]
        query = select(Preemption.victim_job_id, Preemption.victim_submit_s, *columns)
        query = query.where(Preemption.cluster == self._db.cluster)
        if job_id is not None:
            query = query.where(Preemption.victim_job_id == job_id)
        if since_s is not None:
            query = query.where(Preemption.ended_s >= since_s)
        query = query.order_by(Preemption.ended_s.desc(), Preemption.id.desc()).limit(limit)
        with self._db.read() as connection:
            return [
                PreemptionRecord(
                    victim=JobKey(job_id=victim, submit_s=submit_s), **dict(zip(_PREEMPTION, values, strict=True))
                )
                for victim, submit_s, *values in connection.execute(query)
            ]

    def preemption_counts(self, keys: Iterable[JobKey]) -> Mapping[JobKey, int]:
        """How often each of these jobs was evicted; every key asked for is there."""
        asked = list(keys)
        if not asked:
            return {}
        group = (Preemption.victim_job_id, Preemption.victim_submit_s)
        query = select(*group, func.count(), func.max(Preemption.id)).where(Preemption.cluster == self._db.cluster)
        with self._ledger_lock, self._db.read() as connection:
            if len(asked) <= FEW:
                query = query.where(Preemption.victim_job_id.in_({key.job_id for key in asked}))
                counts = Counter(
                    {
                        JobKey(job_id=job_id, submit_s=at): n
                        for job_id, at, n, _ in connection.execute(query.group_by(*group))
                    }
                )
                return {key: counts[key] for key in asked}
            newest = select(func.max(Preemption.id)).where(Preemption.cluster == self._db.cluster)
            if (connection.execute(newest).scalar() or 0) < self._counted_id:
                # another database is there now (restored from a backup)
                self._counts, self._counted_id = Counter(), 0
            for job_id, at, n, last in connection.execute(
                query.where(Preemption.id > self._counted_id).group_by(*group)
            ).all():
                self._counts[JobKey(job_id=job_id, submit_s=at)] += n
                self._counted_id = max(self._counted_id, last)
            return {key: self._counts[key] for key in asked}

    def last_left(self, keys: Iterable[JobKey], reason: str) -> Mapping[JobKey, float]:
        """When each of these jobs last had to leave for that reason; jobs that never had are left out."""
        asked = set(keys)
        if not asked:
            return {}
        group = (Preemption.victim_job_id, Preemption.victim_submit_s)
        query = select(*group, func.max(Preemption.ended_s)).where(
            Preemption.cluster == self._db.cluster, Preemption.reason == reason
        )
        if len(asked) <= FEW:
            query = query.where(Preemption.victim_job_id.in_({key.job_id for key in asked}))
        with self._db.read() as connection:
            found = {
                JobKey(job_id=job_id, submit_s=at): float(ended_s)
                for job_id, at, ended_s in connection.execute(query.group_by(*group))
            }
        return {key: ended_s for key, ended_s in found.items() if key in asked}
