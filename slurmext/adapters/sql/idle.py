"""What jobs' GPUs do, extensions of idle jobs, and notices to jobs' owners."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update

from slurmext.adapters.sql import models
from slurmext.errors import SlurmextError
from slurmext.model.state import Extension, GpuActivity, GpuState, JobKey, Notice

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from slurmext.adapters.sql.engine import Database

_ACTIVITY = (
    "job_id",
    "node",
    "state",
    "at_s",
    "valid_until_s",
    "started_s",
    "gpus",
    "idle_since_s",
    "mean_percent",
    "peak_memory_mib",
)
_NOTICE = ("reason", "since_s", "at_s", "message")


class IdleStore:
    """Of one cluster."""

    _db: Database

    def record_gpu_activity(self, record: GpuActivity) -> None:
        """Replace what is known of the job's GPUs on that node, unless something newer is."""
        table = models.GpuActivity
        key = {"cluster": self._db.cluster, "job_id": record.job_id, "node": record.node}
        values = {**asdict(record), **key}
        with self._db.write() as connection:
            known = connection.execute(select(table.at_s).filter_by(**key)).scalar()
            if known is None:
                connection.execute(insert(table).values(**values))
            elif known <= record.at_s:
                connection.execute(update(table).filter_by(**key).values(**values))

    def gpu_activity(
        self, *, job_ids: Collection[str] | None = None, state: GpuState | None = None
    ) -> list[GpuActivity]:
        """What agents said last, by job and node."""
        table = models.GpuActivity
        query = select(*(getattr(table, name) for name in _ACTIVITY)).where(table.cluster == self._db.cluster)
        if job_ids is not None:
            query = query.where(table.job_id.in_(job_ids))
        if state is not None:
            query = query.where(table.state == state)
        with self._db.read() as connection:
            return [
                GpuActivity(**{**row._mapping, "state": GpuState(row.state)})  # noqa: SLF001
                for row in connection.execute(query.order_by(table.job_id, table.node))
            ]

    def record_extension(self, record: Extension) -> None:
        """Spare a job until then; replaces an earlier extension of it."""
        table = models.Extension
        key = {"cluster": self._db.cluster, "job_id": record.job.job_id, "submit_s": record.job.submit_s}
        values = {"keep_until_s": record.keep_until_s, "asked_by": record.asked_by, "asked_s": record.asked_s}
        with self._db.write() as connection:
            if connection.execute(select(table.asked_s).filter_by(**key)).first() is None:
                connection.execute(insert(table).values(**key, **values))
            else:
                connection.execute(update(table).filter_by(**key).values(**values))

    def extensions(self, *, until_s: float) -> Mapping[JobKey, Extension]:
        """Extensions that last longer than `until_s`."""
        table = models.Extension
        columns = (table.job_id, table.submit_s, table.keep_until_s, table.asked_by, table.asked_s)
        query = select(*columns).where(table.cluster == self._db.cluster, table.keep_until_s > until_s)
        with self._db.read() as connection:
            found = [
                Extension(
                    job=JobKey(job_id=row.job_id, submit_s=row.submit_s),
                    keep_until_s=row.keep_until_s,
                    asked_by=row.asked_by,
                    asked_s=row.asked_s,
                )
                for row in connection.execute(query)
            ]
        return {extension.job: extension for extension in found}

    def replace_notices(self, token: int, notices: Sequence[Notice]) -> None:
        """Make exactly these notices stand: one for a job and reason."""
        wanted = {(notice.job, notice.reason): notice for notice in notices}
        if len(wanted) < len(notices):
            raise SlurmextError("a job was given two notices for one reason; keep the earlier.")
        table = models.Notice
        with self._db.controlled(token) as connection:
            query = select(table.job_id, table.submit_s, *(getattr(table, name) for name in _NOTICE))
            rows = connection.execute(query.where(table.cluster == self._db.cluster)).all()
            standing = {(_key(row), row.reason): _notice(row) for row in rows}
            for (job, reason), notice in standing.items():
                if wanted.get((job, reason)) != notice:
                    one = {"job_id": job.job_id, "submit_s": job.submit_s, "reason": reason}
                    connection.execute(delete(table).filter_by(cluster=self._db.cluster, **one))
            for key, notice in wanted.items():
                if standing.get(key) != notice:
                    values = {name: getattr(notice, name) for name in _NOTICE}
                    job = {"job_id": notice.job.job_id, "submit_s": notice.job.submit_s}
                    connection.execute(insert(table).values(cluster=self._db.cluster, **job, **values))

    def notices(self) -> list[Notice]:
        """Standing notices, oldest first."""
        table = models.Notice
        query = select(table.job_id, table.submit_s, *(getattr(table, name) for name in _NOTICE))
        query = query.where(table.cluster == self._db.cluster).order_by(table.since_s, table.job_id)
        with self._db.read() as connection:
            return [_notice(row) for row in connection.execute(query)]


def _key(row: object) -> JobKey:
    return JobKey(job_id=row.job_id, submit_s=row.submit_s)  # type: ignore[attr-defined]


def _notice(row: object) -> Notice:
    return Notice(job=_key(row), **{name: getattr(row, name) for name in _NOTICE})
