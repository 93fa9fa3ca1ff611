"""What queues borrowed lately."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select

from slurmext.adapters.sql import models
from slurmext.errors import SlurmextError
from slurmext.model.state import PastUse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurmext.adapters.sql.engine import Database


class PastUseStore:
    """Of one cluster."""

    _db: Database

    def save_past_use(self, token: int, uses: Sequence[PastUse]) -> None:
        """Make exactly this known of what queues used: one for a queue."""
        if len({use.queue for use in uses}) < len(uses):
            raise SlurmextError("a queue was given two past uses; add them up.")
        rows = [{"cluster": self._db.cluster, "queue": use.queue, "gpus": use.gpus, "at_s": use.at_s} for use in uses]
        with self._db.controlled(token) as connection:
            connection.execute(delete(models.QueueUse).filter_by(cluster=self._db.cluster))
            if rows:
                connection.execute(insert(models.QueueUse), rows)

    def past_use(self) -> list[PastUse]:
        """What queues used, by queue."""
        table = models.QueueUse
        query = select(table.queue, table.gpus, table.at_s).where(table.cluster == self._db.cluster)
        with self._db.read() as connection:
            return [
                PastUse(queue=row.queue, gpus=row.gpus, at_s=row.at_s)
                for row in connection.execute(query.order_by(table.queue))
            ]
