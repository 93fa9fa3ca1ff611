"""Events, for timelines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError

from slurmext.adapters.sql.models import Event as EventRow
from slurmext.model.state import Event

if TYPE_CHECKING:
    from slurmext.adapters.sql.engine import Database

_EVENT = ("id", "at_s", "source", "kind", "job_id", "message", "detail")


class EventStore:
    """Events of one cluster."""

    _db: Database

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
