"""What is kept about the past: the victims' ledger, checkpoints and events."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError

from slurmext.adapters.sql.jobs import chunks
from slurmext.adapters.sql.models import Checkpoint, Preemption
from slurmext.adapters.sql.models import Event as EventRow
from slurmext.model.state import CheckpointRecord, Event, JobKey, PreemptionRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from slurmext.adapters.sql.engine import Database

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
_CHECKPOINT = ("job_id", "step", "path", "size_bytes", "saved_s", "confirmed_s", "node")
_EVENT = ("id", "at_s", "source", "kind", "job_id", "message", "detail")


class LedgerStore:
    """Ledger, checkpoints and events of one cluster."""

    _db: Database

    # ledger
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
        counts = dict.fromkeys(keys, 0)
        group = (Preemption.victim_job_id, Preemption.victim_submit_s)
        query = select(*group, func.count()).where(Preemption.cluster == self._db.cluster).group_by(*group)
        with self._db.read() as connection:
            for some in chunks(key.job_id for key in counts):
                for job_id, submit_s, count in connection.execute(query.where(Preemption.victim_job_id.in_(some))):
                    key = JobKey(job_id=job_id, submit_s=submit_s)
                    if key in counts:
                        counts[key] = count
        return counts

    # checkpoints
    def record_checkpoint(self, record: CheckpointRecord) -> None:
        """Add a confirmed checkpoint; the same save again (agents send at least once) adds nothing."""
        same = {name: getattr(record, name) for name in ("job_id", "saved_s", "node", "step", "path")}
        with self._db.write() as connection:
            query = select(Checkpoint.id).filter_by(cluster=self._db.cluster, **same)
            if connection.execute(query).first() is None:
                connection.execute(insert(Checkpoint).values(cluster=self._db.cluster, **asdict(record)))

    def last_checkpoints(self, job_ids: Collection[str]) -> Mapping[str, CheckpointRecord]:
        """The newest confirmed checkpoint of each job that has one."""
        newest: dict[str, CheckpointRecord] = {}
        with self._db.read() as connection:
            for some in chunks(job_ids):
                mine = (Checkpoint.cluster == self._db.cluster, Checkpoint.job_id.in_(some))
                # grouped over the index alone: the table holds every checkpoint of long jobs
                last = (
                    select(Checkpoint.job_id, func.max(Checkpoint.saved_s).label("saved_s"))
                    .where(*mine)
                    .group_by(Checkpoint.job_id)
                    .subquery()
                )
                query = select(*(getattr(Checkpoint, name) for name in _CHECKPOINT)).join(
                    last, (last.c.job_id == Checkpoint.job_id) & (last.c.saved_s == Checkpoint.saved_s)
                )
                for row in connection.execute(query.where(*mine).order_by(Checkpoint.id)):
                    newest[row.job_id] = CheckpointRecord(**row._mapping)  # noqa: SLF001  public by contract
        return newest

    def checkpoints(self, *, job_id: str | None = None, limit: int = 100) -> list[CheckpointRecord]:
        """Newest first."""
        query = select(*(getattr(Checkpoint, name) for name in _CHECKPOINT))
        query = query.where(Checkpoint.cluster == self._db.cluster)
        if job_id is not None:
            query = query.where(Checkpoint.job_id == job_id)
        query = query.order_by(Checkpoint.saved_s.desc(), Checkpoint.id.desc()).limit(limit)
        with self._db.read() as connection:
            return [CheckpointRecord(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001

    # events
    def record_event(self, event: Event, *, dedup: str | None = None) -> bool:
        """Add an event; False when one with the same `dedup` key is already there."""
        values = {name: getattr(event, name) for name in _EVENT if name != "id"}
        same = select(EventRow.id).where(EventRow.cluster == self._db.cluster, EventRow.dedup == dedup)
        with self._db.write() as connection:
            if dedup is not None and connection.execute(same).first() is not None:
                return False
            try:
                with connection.begin_nested():
                    connection.execute(insert(EventRow).values(cluster=self._db.cluster, dedup=dedup, **values))
            except IntegrityError:
                return False  # another process got in between; nothing but the key can collide
        return True

    def events(
        self,
        *,
        job_id: str | None = None,
        since_s: float | None = None,
        after_id: int | None = None,
        limit: int = 200,
    ) -> list[Event]:
        """Oldest first. With `after_id` the next `limit` in order of arrival, else the last `limit` by time."""
        query = select(*(getattr(EventRow, name) for name in _EVENT)).where(EventRow.cluster == self._db.cluster)
        if job_id is not None:
            query = query.where(EventRow.job_id == job_id)
        if since_s is not None:
            query = query.where(EventRow.at_s >= since_s)
        if after_id is not None:
            query = query.where(EventRow.id > after_id).order_by(EventRow.id)
        else:
            query = query.order_by(EventRow.at_s.desc(), EventRow.id.desc())
        with self._db.read() as connection:
            found = [Event(**row._mapping) for row in connection.execute(query.limit(limit))]  # noqa: SLF001
        return found if after_id is not None else found[::-1]
