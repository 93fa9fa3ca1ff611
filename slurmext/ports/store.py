"""The state store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from slurmext.model.queue import Queue
from slurmext.model.slice_state import OPEN_SLICES, GpuHold, GpuRecord, SliceRecord, SliceSample, SliceState
from slurmext.model.state import (
    ActionRecord,
    ActionState,
    CheckpointRecord,
    Event,
    Extension,
    GpuActivity,
    GpuState,
    Intent,
    JobKey,
    JobRow,
    Lease,
    Notice,
    PastUse,
    PolicyVersion,
    PreemptionRecord,
    StoredFence,
)
from slurmext.model.upkeep import CheckpointCopy, CheckpointCost, FailureRate, FailureRecord
from slurmext.ports.models import ModelRegistry


class Store(Protocol):
    """The state store. Raises StoreUnavailable when the database does not answer, StoreConflict on a stale token.

    Methods that take `token` are the controller's: they commit only while that token is the newest of the
    `controller` lease.
    """

    # lease
    def acquire_lease(self, name: str, holder: str, ttl_s: float, now_s: float) -> Lease | None:
        """Take or renew the lease; None while another holder's has not expired. A new holder gets token + 1."""
        ...

    def release_lease(self, lease: Lease) -> None:
        """Give the lease up, if it is still ours."""
        ...

    def current_lease(self, name: str) -> Lease | None:
        """The lease as stored, expired or not."""
        ...

    # policy
    def apply_policy(
        self, document: str, applied_by: str, now_s: float, *, queues: Sequence[Queue] | None = None
    ) -> PolicyVersion:
        """Store a new policy version and, where given, its queues for reports."""
        ...

    def current_policy(self) -> PolicyVersion | None:
        """The newest policy, None before the first."""
        ...

    def policy_versions(self, limit: int = 20) -> list[PolicyVersion]:
        """Newest first."""
        ...

    # jobs
    def save_jobs(self, token: int, rows: Iterable[JobRow]) -> None:
        """Insert or update jobs by key. Only rows that differ in more than `updated_s` are written."""
        ...

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
        """Known jobs in order of submission: of reused ids the newest comes last.

        `active` leaves out those with an end time, `ended_since_s` those that ended before then; `queue` takes those
        below it as well. With `limit` the last so many.
        """
        ...

    # plans and actions
    def record_plan(
        self, token: int, now_s: float, summary: Mapping[str, object], intents: Sequence[Intent]
    ) -> list[ActionRecord]:
        """Write a plan and the intents of its actions in one transaction."""
        ...

    def advance(
        self,
        token: int,
        action_id: int,
        state: ActionState,
        now_s: float,
        *,
        message: str = "",
        detail: Mapping[str, object] | None = None,
    ) -> None:
        """Record an action's next state (detail is merged) and an event of it, in one transaction."""
        ...

    def open_actions(self) -> list[ActionRecord]:
        """Actions not in a final state, oldest first."""
        ...

    def actions(
        self, *, job_id: str | None = None, since_s: float | None = None, limit: int = 100
    ) -> list[ActionRecord]:
        """Newest first."""
        ...

    def count_actions(self, *, action: str, since_s: float) -> int:
        """How many actions of a kind (ActionKind value) were carried out (not refused or given up) since then."""
        ...

    # fences
    def replace_fences(self, token: int, fences: Sequence[StoredFence]) -> None:
        """Make exactly these fences stand."""
        ...

    def fences(self) -> list[StoredFence]:
        """Standing fences."""
        ...

    # ledger, checkpoints, events
    def record_preemption(self, token: int, record: PreemptionRecord) -> None:
        """Add a line to the victim's ledger."""
        ...

    def preemptions(
        self, *, job_id: str | None = None, since_s: float | None = None, limit: int = 100
    ) -> list[PreemptionRecord]:
        """Newest first."""
        ...

    def preemption_counts(self, keys: Iterable[JobKey]) -> Mapping[JobKey, int]:
        """How often each of these jobs was evicted."""
        ...

    def record_checkpoint(self, record: CheckpointRecord) -> None:
        """Add a confirmed checkpoint."""
        ...

    def last_checkpoints(self, job_ids: Collection[str]) -> Mapping[str, CheckpointRecord]:
        """The newest confirmed checkpoint of each job that has one."""
        ...

    def checkpoints(self, *, job_id: str | None = None, limit: int = 100) -> list[CheckpointRecord]:
        """Newest first."""
        ...

    def last_left(self, keys: Iterable[JobKey], reason: str) -> Mapping[JobKey, float]:
        """When each of these jobs last had to leave for that reason; jobs that never had are left out."""
        ...

    # idle GPUs
    def record_gpu_activity(self, record: GpuActivity) -> None:
        """Replace what is known of the job's GPUs on that node, unless something newer is."""
        ...

    def gpu_activity(
        self, *, job_ids: Collection[str] | None = None, state: GpuState | None = None
    ) -> list[GpuActivity]:
        """What agents said last, by job and node."""
        ...

    def record_extension(self, record: Extension) -> None:
        """Spare a job until then; replaces an earlier extension of it."""
        ...

    def extensions(self, *, until_s: float) -> Mapping[JobKey, Extension]:
        """Extensions that last longer than `until_s`."""
        ...

    def replace_notices(self, token: int, notices: Sequence[Notice]) -> None:
        """Make exactly these notices stand: one for a job and reason."""
        ...

    def notices(self) -> list[Notice]:
        """Standing notices, oldest first."""
        ...

    def save_past_use(self, token: int, uses: Sequence[PastUse]) -> None:
        """Make exactly this known of what queues used: one for a queue."""
        ...

    def past_use(self) -> list[PastUse]:
        """What queues used, by queue."""
        ...

    # slices
    def record_gpus(self, node: str, gpus: Sequence[GpuRecord], at_s: float) -> None:
        """Make exactly these the GPUs of the node, unless something newer is known of it."""
        ...

    def gpus(self) -> list[GpuRecord]:
        """What agents said last, by node and minor number."""
        ...

    def add_slices(self, token: int, records: Sequence[SliceRecord]) -> list[SliceRecord]:
        """Write reservations, all or none; returns them with their ids."""
        ...

    def advance_slices(
        self,
        ids: Collection[int],
        state: SliceState,
        now_s: float,
        *,
        within: Collection[SliceState] = OPEN_SLICES,
        uuid: str | None = None,
        why: str | None = None,
        made_ms: float | None = None,
        token: int | None = None,
    ) -> int:
        """Bring slices that are in one of the states `within` into another; returns how many were.

        Without a token for what agents say; the controller gives its own.
        """
        ...

    def slices(
        self,
        *,
        active: bool = True,
        job_ids: Collection[str] | None = None,
        states: Collection[SliceState] | None = None,
        user: str | None = None,
        why: str | None = None,
        since_s: float | None = None,
        limit: int | None = None,
    ) -> list[SliceRecord]:
        """Slices, oldest first; `active` leaves out those in a final state, `since_s` those that ended before.

        With `limit` the last so many.
        """
        ...

    def add_hold(self, token: int, hold: GpuHold) -> GpuHold:
        """Write that a GPU is to be taken; returns it with its id."""
        ...

    def change_hold(self, token: int, hold: GpuHold) -> None:
        """Replace what is known of a placeholder."""
        ...

    def holds(self, *, active: bool = True) -> list[GpuHold]:
        """Placeholders, oldest first; `active` leaves out those that ended."""
        ...

    def record_slice_sample(self, record: SliceSample) -> None:
        """Replace what is known of the job's slices on that node, unless something newer is."""
        ...

    def slice_samples(self, *, job_ids: Collection[str] | None = None) -> list[SliceSample]:
        """What agents measured last, by job and node."""
        ...

    # what checkpoints cost, where copies are, how often jobs fail
    def record_checkpoint_cost(self, record: CheckpointCost) -> None:
        """Replace what is known of the job, unless something newer is."""
        ...

    def checkpoint_costs(self, job_ids: Collection[str]) -> Mapping[str, CheckpointCost]:
        """Of each of these jobs that has said so."""
        ...

    def record_copy(self, record: CheckpointCopy) -> None:
        """Replace what is known of this copy; one of no bytes at all is gone."""
        ...

    def copies(self, *, job_id: str | None = None, node: str | None = None) -> list[CheckpointCopy]:
        """Newest first."""
        ...

    def record_failure(self, token: int, record: FailureRecord) -> None:
        """Add a run that ended unannounced."""
        ...

    def failures(self, *, since_s: float | None = None, limit: int = 100) -> list[FailureRecord]:
        """Newest first."""
        ...

    def save_failure_rate(self, token: int, rate: FailureRate) -> None:
        """Make this the rate that is known."""
        ...

    def failure_rate(self) -> FailureRate:
        """What is known; nothing at first."""
        ...

    # models
    @property
    def models(self) -> ModelRegistry:
        """Models that can be staged."""
        ...

    # events
    def record_event(self, event: Event, *, dedup: str | None = None) -> bool:
        """Add an event; False when one with the same `dedup` key is already there."""
        ...

    def events(
        self, *, job_id: str | None = None, since_s: float | None = None, after_id: int | None = None, limit: int = 200
    ) -> list[Event]:
        """Oldest first. With `after_id` the next `limit` in order of arrival, else the last `limit` by time."""
        ...

    def prune(self, token: int, before_s: float) -> int:
        """Delete events, finished plans, ended jobs, their checkpoints and slices of before then; the ledger stays."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
