"""Jobs as slurmext knows them. Most of a cycle's jobs did not change, so only differences reach the database."""

from __future__ import annotations

import threading
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, bindparam, delete, or_, select
from sqlalchemy.dialects import mysql, postgresql, sqlite

from slurmext.adapters.sql.models import Job
from slurmext.model.state import JobKey, JobRow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from slurmext.adapters.sql.engine import Database

IN_LIMIT = 1000
"""Ids in one IN list. SQLite allows 32,766 parameters a statement, PostgreSQL 65,535."""

ENDED_LIMIT = 50_000
"""Ended jobs remembered for comparison before they are forgotten (and written once more if they come again)."""

_FIELDS = (
    "name",
    "user",
    "account",
    "queue",
    "state",
    "gpus",
    "nodes",
    "reason",
    "message",
    "reasons",
    "ckpt",
    "preempted",
    "restarts",
    "start_s",
    "end_s",
    "requested_nodes",
)
_COLUMNS = ["user_name" if field == "user" else field for field in _FIELDS]
_values: Callable[[JobRow], tuple[Any, ...]] = attrgetter(*_FIELDS)

Key = tuple[str, int]


def chunks(values: Iterable[str], size: int = IN_LIMIT) -> Iterator[Sequence[str]]:
    """The distinct values in lists of at most `size`."""
    rest = list(dict.fromkeys(values))
    for at in range(0, len(rest), size):
        yield rest[at : at + size]


def changed_jobs(rows: Iterable[JobRow], stored: dict[Key, JobRow]) -> dict[Key, JobRow]:
    """The rows that differ from what is stored in more than `updated_s`; of the same key the last."""
    changed: dict[Key, JobRow] = {}
    for row in rows:
        key = (row.job.job_id, row.job.submit_s)
        known = stored.get(key)
        if known is None or _values(known) != _values(row):
            changed[key] = row
        elif changed:
            changed.pop(key, None)
    return changed


class JobStore:
    """Jobs of one cluster.

    What was written is remembered for as long as the token is the newest: until then nobody else writes jobs. So the
    controller neither writes what did not change nor reads what it wrote itself, as long as it asks for the token.
    """

    _db: Database

    def __init__(self) -> None:
        super().__init__()
        self._jobs_lock = threading.Lock()
        self._jobs_token: int | None = None
        self._jobs_stored: dict[Key, JobRow] = {}

    def save_jobs(self, token: int, rows: Iterable[JobRow]) -> None:
        """Insert or update jobs by key. Only rows that differ in more than `updated_s` are written."""
        with self._jobs_lock:
            remembered = self._jobs_stored if self._jobs_token == token else None
            # Forget first: should the commit's answer be lost, nobody knows what is stored.
            self._jobs_token = None
            with self._db.controlled(token) as connection:
                if remembered is None:
                    rows_then = self._read(connection, active=True)
                    remembered = {(row.job.job_id, row.job.submit_s): row for row in rows_then}
                changed = changed_jobs(rows, remembered)
                if changed:
                    connection.execute(_upsert(self._db.dialect), [self._columns(row) for row in changed.values()])
            remembered.update(changed)
            self._jobs_stored = _without_many_ended(remembered)
            self._jobs_token = token

    def jobs(
        self,
        *,
        job_ids: Collection[str] | None = None,
        active: bool = True,
        user: str | None = None,
        queue: str | None = None,
        state: str | None = None,
        ended_since_s: float | None = None,
        limit: int | None = None,
    ) -> list[JobRow]:
        """Known jobs in order of submission, those that pass every filter; with `limit` the last so many."""
        rows = self._remembered() if active and job_ids is None else None
        if rows is None:
            query = _filtered(user=user, queue=queue, state=state, ended_since_s=ended_since_s, limit=limit)
            with self._db.read() as connection:
                parts = (
                    [self._read(connection, active=active, more=query)]
                    if job_ids is None
                    else [self._read(connection, active=active, more=query, job_ids=some) for some in chunks(job_ids)]
                )
            rows = [row for part in parts for row in part]
        # Once more, in Python's terms: databases compare text as their collation says.
        asked = [
            row
            for row in rows
            if row.is_asked_for(active=active, user=user, queue=queue, state=state, ended_since_s=ended_since_s)
        ]
        found = _in_order(asked)
        return found if limit is None else found[max(0, len(found) - limit) :]

    def _remembered(self) -> list[JobRow] | None:
        """The active jobs as this store wrote them, None when another may have written since."""
        with self._jobs_lock:
            if self._jobs_token is None:
                return None
            if self._db.newest_token() == self._jobs_token:
                return [row for row in self._jobs_stored.values() if row.end_s is None]
            self._jobs_token = None
            return None

    def _prune_jobs(self, token: int, before_s: float, batch: int) -> int:
        deleted = 0
        with self._jobs_lock:
            self._jobs_token = None  # what is remembered is no longer what is stored
            while True:
                with self._db.controlled(token) as connection:
                    ended = select(Job.job_id, Job.submit_s).where(
                        Job.cluster == self._db.cluster, Job.end_s < before_s
                    )
                    keys = [{"id": row.job_id, "at": row.submit_s} for row in connection.execute(ended.limit(batch))]
                    if keys:
                        one = (Job.cluster == self._db.cluster, Job.job_id == bindparam("id"))
                        connection.execute(delete(Job).where(*one, Job.submit_s == bindparam("at")), keys)
                deleted += len(keys)
                if len(keys) < batch:
                    return deleted

    def _read(
        self,
        connection: Connection,
        *,
        active: bool,
        job_ids: Sequence[str] | None = None,
        more: Callable[[Select[Any]], Select[Any]] = lambda query: query,
    ) -> list[JobRow]:
        query = select(Job.job_id, Job.submit_s, Job.updated_s, *(getattr(Job, name) for name in _COLUMNS))
        query = query.where(Job.cluster == self._db.cluster)
        if active:
            query = query.where(Job.end_s.is_(None))
        if job_ids is not None:
            query = query.where(Job.job_id.in_(job_ids))
        return [
            JobRow(
                job=JobKey(job_id=job_id, submit_s=submit_s),
                updated_s=updated_s,
                **dict(zip(_FIELDS, values, strict=True)),
            )
            for job_id, submit_s, updated_s, *values in connection.execute(more(query))
        ]

    def _columns(self, row: JobRow) -> dict[str, Any]:
        columns = dict(zip(_COLUMNS, _values(row), strict=True))
        columns.update(
            cluster=self._db.cluster, job_id=row.job.job_id, submit_s=row.job.submit_s, updated_s=row.updated_s
        )
        return columns


def _filtered(
    *, user: str | None, queue: str | None, state: str | None, ended_since_s: float | None, limit: int | None
) -> Callable[[Select[Any]], Select[Any]]:
    """Adds the filters to a query of jobs, so that the database reads and sends no more than is asked for."""

    def add(query: Select[Any]) -> Select[Any]:
        if user is not None:
            query = query.where(Job.user_name == user)
        if state is not None:
            query = query.where(Job.state == state)
        if queue is not None:
            query = query.where(or_(Job.queue == queue, Job.queue.startswith(f"{queue}/", autoescape=True)))
        if ended_since_s is not None:
            query = query.where(or_(Job.end_s.is_(None), Job.end_s >= ended_since_s))
        if limit is not None:
            query = query.order_by(Job.submit_s.desc(), Job.job_id.desc()).limit(limit)
        return query

    return add


def _upsert(dialect: str) -> Any:
    fresh = [*_COLUMNS, "updated_s"]
    if dialect == "mysql":
        into = mysql.insert(Job)
        return into.on_duplicate_key_update({name: into.inserted[name] for name in fresh})
    insert = sqlite.insert(Job) if dialect == "sqlite" else postgresql.insert(Job)
    keys = [Job.cluster, Job.job_id, Job.submit_s]
    return insert.on_conflict_do_update(index_elements=keys, set_={name: insert.excluded[name] for name in fresh})


def _in_order(rows: list[JobRow]) -> list[JobRow]:
    return sorted(rows, key=lambda row: (row.job.submit_s, row.job.job_id))


def _without_many_ended(stored: dict[Key, JobRow]) -> dict[Key, JobRow]:
    if len(stored) <= ENDED_LIMIT:
        return stored
    alive = {key: row for key, row in stored.items() if row.end_s is None}
    return alive if len(stored) - len(alive) > ENDED_LIMIT else stored
