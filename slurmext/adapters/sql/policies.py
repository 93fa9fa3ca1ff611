"""Policies: every version applied, and the newest one's queues for reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from slurmext.adapters.sql.models import Policy
from slurmext.adapters.sql.models import Queue as QueueRow
from slurmext.errors import StoreUnavailable
from slurmext.model.state import PolicyVersion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurmext.adapters.sql.engine import Database
    from slurmext.model.queue import Queue

_COLUMNS = (Policy.version, Policy.document, Policy.applied_by, Policy.applied_s)


class PolicyStore:
    """Policies of one cluster."""

    _db: Database

    def apply_policy(
        self, document: str, applied_by: str, now_s: float, *, queues: Sequence[Queue] | None = None
    ) -> PolicyVersion:
        """Store a new policy version and, where given, its queues for the reports."""
        for _ in range(5):
            try:
                with self._db.write() as connection:
                    newest = select(func.max(Policy.version)).where(Policy.cluster == self._db.cluster)
                    version = (connection.execute(newest).scalar() or 0) + 1
                    values = {"document": document, "applied_by": applied_by, "applied_s": now_s}
                    try:
                        connection.execute(insert(Policy).values(cluster=self._db.cluster, version=version, **values))
                    except IntegrityError as error:
                        raise _VersionTaken from error
                    if queues is not None:
                        connection.execute(delete(QueueRow).where(QueueRow.cluster == self._db.cluster))
                        if queues:
                            connection.execute(insert(QueueRow), [self._queue(queue, version) for queue in queues])
                return PolicyVersion(version=version, **values)
            except _VersionTaken:
                continue
        raise StoreUnavailable("others keep applying policies at the same time; try again.")

    def current_policy(self) -> PolicyVersion | None:
        """The newest policy, None before the first."""
        return next(iter(self.policy_versions(1)), None)

    def policy_versions(self, limit: int = 20) -> list[PolicyVersion]:
        """Newest first."""
        query = select(*_COLUMNS).where(Policy.cluster == self._db.cluster).order_by(Policy.version.desc())
        with self._db.read() as connection:
            return [PolicyVersion(**row._mapping) for row in connection.execute(query.limit(limit))]  # noqa: SLF001

    def _queue(self, queue: Queue, version: int) -> dict[str, object]:
        return {
            "cluster": self._db.cluster,
            "path": queue.path,
            "parent": queue.path.rpartition("/")[0],
            "guaranteed_gpus": queue.guaranteed,
            "reserved_gpus": queue.reserved,
            "max_gpus": queue.max,
            "weight": queue.weight,
            "priority": queue.priority,
            "policy_version": version,
        }


class _VersionTaken(Exception):
    """Another process inserted the same version."""
