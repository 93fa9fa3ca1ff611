"""What checkpoints cost, where copies of them are, and how often jobs fail."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update

from slurmext.adapters.sql import models
from slurmext.model.state import JobKey
from slurmext.model.upkeep import CheckpointCopy, CheckpointCost, FailureRate, FailureRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from slurmext.adapters.sql.engine import Database

_COST = (
    "job_id", "at_s", "saves", "nodes", "size_bytes", "stall_s", "write_s", "cost_s", "every_s", "mtbf_s",
)  # fmt: skip
_COPY = ("job_id", "node", "name", "tier", "size_bytes", "done_bytes", "at_s")
_FAILURE = ("at_s", "kind", "nodes", "node_count", "ran_s")


class UpkeepStore:
    """Of one cluster."""

    _db: Database

    def record_checkpoint_cost(self, record: CheckpointCost) -> None:
        """Replace what is known of the job, unless something newer is."""
        table = models.CheckpointCost
        mine = {"cluster": self._db.cluster, "job_id": record.job_id}
        with self._db.write() as connection:
            known = connection.execute(select(table.at_s).filter_by(**mine)).scalar()
            if known is None:
                connection.execute(insert(table).values(cluster=self._db.cluster, **asdict(record)))
            elif known <= record.at_s:
                connection.execute(update(table).filter_by(**mine).values(**asdict(record)))

    def checkpoint_costs(self, job_ids: Collection[str]) -> Mapping[str, CheckpointCost]:
        """Of each of these jobs that has said so."""
        table = models.CheckpointCost
        query = select(*(getattr(table, name) for name in _COST)).where(
            table.cluster == self._db.cluster, table.job_id.in_(job_ids)
        )
        with self._db.read() as connection:
            return {row.job_id: CheckpointCost(**row._mapping) for row in connection.execute(query)}  # noqa: SLF001

    def record_copy(self, record: CheckpointCopy) -> None:
        """Replace what is known of this copy; one of no bytes at all is gone."""
        table = models.CheckpointCopy
        mine = {"cluster": self._db.cluster, "job_id": record.job_id, "node": record.node, "name": record.name}
        with self._db.write() as connection:
            connection.execute(delete(table).filter_by(**mine))
            if record.size_bytes:
                connection.execute(insert(table).values(cluster=self._db.cluster, **asdict(record)))

    def copies(self, *, job_id: str | None = None, node: str | None = None) -> list[CheckpointCopy]:
        """Newest first."""
        table = models.CheckpointCopy
        query = select(*(getattr(table, name) for name in _COPY)).where(table.cluster == self._db.cluster)
        if job_id is not None:
            query = query.where(table.job_id == job_id)
        if node is not None:
            query = query.where(table.node == node)
        with self._db.read() as connection:
            rows = connection.execute(query.order_by(table.at_s.desc(), table.node, table.name))
            return [CheckpointCopy(**row._mapping) for row in rows]  # noqa: SLF001

    def record_failure(self, token: int, record: FailureRecord) -> None:
        """Add a run that ended unannounced."""
        values = {name: getattr(record, name) for name in _FAILURE}
        with self._db.controlled(token) as connection:
            connection.execute(
                insert(models.Failure).values(
                    cluster=self._db.cluster, job_id=record.job.job_id, submit_s=record.job.submit_s, **values
                )
            )

    def failures(self, *, since_s: float | None = None, limit: int = 100) -> list[FailureRecord]:
        """Newest first."""
        table = models.Failure
        columns = [getattr(table, name) for name in _FAILURE]
        query = select(table.job_id, table.submit_s, *columns).where(table.cluster == self._db.cluster)
        if since_s is not None:
            query = query.where(table.at_s >= since_s)
        with self._db.read() as connection:
            rows = connection.execute(query.order_by(table.at_s.desc(), table.id.desc()).limit(limit))
            return [
                FailureRecord(
                    job=JobKey(job_id=row.job_id, submit_s=row.submit_s),
                    **{name: getattr(row, name) for name in _FAILURE},
                )
                for row in rows
            ]

    def save_failure_rate(self, token: int, rate: FailureRate) -> None:
        """Make this the rate that is known."""
        table = models.FailureRate
        with self._db.controlled(token) as connection:
            connection.execute(delete(table).filter_by(cluster=self._db.cluster))
            connection.execute(insert(table).values(cluster=self._db.cluster, **asdict(rate)))

    def failure_rate(self) -> FailureRate:
        """What is known; nothing at first."""
        table = models.FailureRate
        query = select(table.count, table.node_s, table.at_s).where(table.cluster == self._db.cluster)
        with self._db.read() as connection:
            row = connection.execute(query).first()
        return FailureRate() if row is None else FailureRate(count=row[0], node_s=row[1], at_s=row[2])
