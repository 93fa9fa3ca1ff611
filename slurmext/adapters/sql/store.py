"""SqlStore: the state store on SQLite, PostgreSQL or MariaDB."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, delete, select

from slurmext.adapters.sql.actions import OPEN_STATES, ActionStore
from slurmext.adapters.sql.checkpoints import CheckpointStore
from slurmext.adapters.sql.engine import BUSY_TIMEOUT_S, Database
from slurmext.adapters.sql.events import EventStore
from slurmext.adapters.sql.fences import FenceStore
from slurmext.adapters.sql.idle import IdleStore
from slurmext.adapters.sql.jobs import JobStore
from slurmext.adapters.sql.leases import LeaseStore
from slurmext.adapters.sql.ledger import LedgerStore
from slurmext.adapters.sql.models import Action, Checkpoint, Event, Extension, GpuActivity, Job, Plan
from slurmext.adapters.sql.past_use import PastUseStore
from slurmext.adapters.sql.policies import PolicyStore
from slurmext.adapters.sql.slices import SliceStore
from slurmext.adapters.sql.staged_models import SqlModels
from slurmext.adapters.sql.upkeep import UpkeepStore

PRUNE_BATCH = 1000
"""Rows deleted in one transaction: short enough that a cycle never waits for pruning."""


class SqlStore(
    LeaseStore,
    PolicyStore,
    JobStore,
    ActionStore,
    FenceStore,
    LedgerStore,
    CheckpointStore,
    IdleStore,
    PastUseStore,
    SliceStore,
    UpkeepStore,
    EventStore,
):
    """State of one cluster in a migrated database. Safe to share between threads.

    Raises DatabaseRefused for a URL that cannot serve, SchemaMismatch when the tables are not this version's, and as
    `ports.Store` says. A lost connection is made again by the next call.
    """

    def __init__(self, url: str, *, cluster: str = "default", busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        super().__init__()
        self._db = Database(url, cluster, busy_timeout_s=busy_timeout_s)
        self.models = SqlModels(self._db)

    def close(self) -> None:
        """Let go of connections."""
        self._db.close()

    def prune(self, token: int, before_s: float) -> int:
        """Delete what ended before then: events, plans without open actions, ended jobs, their checkpoints and what
        their GPUs did.

        The ledger and the policies stay. Returns the number of rows deleted (actions go with their plans).
        """
        mine = self._db.cluster
        unfinished = select(Action.plan_id).where(Action.cluster == mine, Action.state.in_(OPEN_STATES))
        alive = select(Job.job_id).where(Job.cluster == mine, Job.end_s.is_(None))
        deleted = self._prune(token, Event.id, select(Event.id).where(Event.cluster == mine, Event.at_s < before_s))
        deleted += self._prune(
            token,
            Plan.id,
            select(Plan.id).where(Plan.cluster == mine, Plan.created_s < before_s, Plan.id.not_in(unfinished)),
        )
        deleted += self._prune(
            token,
            Checkpoint.id,
            select(Checkpoint.id).where(
                Checkpoint.cluster == mine, Checkpoint.confirmed_s < before_s, Checkpoint.job_id.not_in(alive)
            ),
        )
        with self._newest_lock:
            self._forget_checkpoints()
        with self._db.controlled(token) as connection:
            old = (GpuActivity.cluster == mine, GpuActivity.at_s < before_s, GpuActivity.job_id.not_in(alive))
            deleted += connection.execute(delete(GpuActivity).where(*old)).rowcount
            over = (Extension.cluster == mine, Extension.keep_until_s < before_s)
            deleted += connection.execute(delete(Extension).where(*over)).rowcount
        deleted += self._prune_slices(token, before_s)
        return deleted + self._prune_jobs(token, before_s, PRUNE_BATCH)

    def _prune(self, token: int, column: Any, query: Select[Any]) -> int:
        deleted = 0
        while True:
            with self._db.controlled(token) as connection:
                # two steps: MariaDB deletes from no table that the same statement selects from with a limit
                ids = connection.execute(query.limit(PRUNE_BATCH)).scalars().all()
                if ids:
                    connection.execute(delete(column.class_).where(column.in_(ids)))
            deleted += len(ids)
            if len(ids) < PRUNE_BATCH:
                return deleted
