"""Checkpoints that jobs confirmed."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, insert, select

from slurmext.adapters.sql.models import Checkpoint
from slurmext.model.state import CheckpointRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from sqlalchemy.sql.elements import ColumnElement

    from slurmext.adapters.sql.engine import Database

FEW = 100
"""Jobs whose checkpoints are looked up; for more, the newest of all jobs are followed in memory."""

OVERLAP = 100
"""Ids read again, since of two writers the one with the lower id may commit later."""

_FIELDS = ("job_id", "step", "path", "size_bytes", "saved_s", "confirmed_s", "node")
_COLUMNS = [getattr(Checkpoint, name) for name in _FIELDS]


class CheckpointStore:
    """Checkpoints of one cluster. A cycle asks for the newest of every job, so only new ones are read each time."""

    _db: Database

    def __init__(self) -> None:
        super().__init__()
        self._newest_lock = threading.Lock()
        self._newest: dict[str, CheckpointRecord] = {}
        self._newest_id = 0

    def record_checkpoint(self, record: CheckpointRecord) -> None:
        """Add a confirmed checkpoint; the same save again (agents send at least once) adds nothing."""
        same = {name: getattr(record, name) for name in ("job_id", "saved_s", "node", "step", "path")}
        with self._db.write() as connection:
            query = select(Checkpoint.id).filter_by(cluster=self._db.cluster, **same)
            if connection.execute(query).first() is None:
                connection.execute(insert(Checkpoint).values(cluster=self._db.cluster, **asdict(record)))

    def last_checkpoints(self, job_ids: Collection[str]) -> Mapping[str, CheckpointRecord]:
        """The newest confirmed checkpoint of each job that has one."""
        if not job_ids:
            return {}
        with self._newest_lock, self._db.read() as connection:
            if len(job_ids) <= FEW:
                return self._newest_of(connection, Checkpoint.job_id.in_(job_ids))
            last = connection.execute(
                select(func.max(Checkpoint.id)).where(Checkpoint.cluster == self._db.cluster)
            ).scalar()
            if last is None or last < self._newest_id:
                self._forget_checkpoints()  # pruned, or another database is there now
            if self._newest_id == 0:
                self._newest = self._newest_of(connection)
            elif last != self._newest_id:
                query = select(*_COLUMNS).where(
                    Checkpoint.cluster == self._db.cluster, Checkpoint.id > self._newest_id - OVERLAP
                )
                for row in connection.execute(query.order_by(Checkpoint.id)):
                    known = self._newest.get(row.job_id)
                    if known is None or row.saved_s >= known.saved_s:
                        self._newest[row.job_id] = CheckpointRecord(**row._mapping)  # noqa: SLF001
            self._newest_id = last or 0
            return {job_id: self._newest[job_id] for job_id in job_ids if job_id in self._newest}

    def _newest_of(self, connection: Connection, *only: ColumnElement[bool]) -> dict[str, CheckpointRecord]:
        mine = (Checkpoint.cluster == self._db.cluster, *only)
        # grouped over the index alone: the table holds every checkpoint of long jobs
        last = (
            select(Checkpoint.job_id, func.max(Checkpoint.saved_s).label("saved_s"))
            .where(*mine)
            .group_by(Checkpoint.job_id)
            .subquery()
        )
        same = (last.c.job_id == Checkpoint.job_id) & (last.c.saved_s == Checkpoint.saved_s)
        query = select(*_COLUMNS).join(last, same).where(*mine).order_by(Checkpoint.id)
        return {row.job_id: CheckpointRecord(**row._mapping) for row in connection.execute(query)}  # noqa: SLF001

    def _forget_checkpoints(self) -> None:
        self._newest, self._newest_id = {}, 0

    def checkpoints(self, *, job_id: str | None = None, limit: int = 100) -> list[CheckpointRecord]:
        """Newest first."""
        query = select(*_COLUMNS)
        query = query.where(Checkpoint.cluster == self._db.cluster)
        if job_id is not None:
            query = query.where(Checkpoint.job_id == job_id)
        query = query.order_by(Checkpoint.saved_s.desc(), Checkpoint.id.desc()).limit(limit)
        with self._db.read() as connection:
            return [CheckpointRecord(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001
