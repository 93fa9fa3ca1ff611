"""Records the state store keeps: what was decided, what was done, what happened. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class ActionKind(StrEnum):
    """What an action does to a job, from gentle to harsh."""

    RELEASE = "release"
    HOLD = "hold"
    EVICT = "evict"


class ActionState(StrEnum):
    """Where an action stands. INTENT is written before anything is done; the last four are final."""

    INTENT = "intent"
    RELEASED = "released"
    SIGNALLED = "signalled"
    REQUEUED = "requeued"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    ABANDONED = "abandoned"

    @property
    def final(self) -> bool:
        """Nothing more will be done for the action."""
        return self in _FINAL


_FINAL = frozenset({ActionState.DONE, ActionState.REFUSED, ActionState.FAILED, ActionState.ABANDONED})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobKey:
    """Slurm reuses job ids: a job is its cluster's id together with the time it was first submitted."""

    job_id: str
    submit_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """An action to be written before it is done. `detail` is what carrying it out or explaining it needs (JSON)."""

    kind: ActionKind
    job: JobKey
    reason: str
    message: str = ""
    detail: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRecord:
    """An action as stored. `changed_s` is when it entered `state`."""

    id: int
    plan_id: int
    kind: ActionKind
    job: JobKey
    reason: str
    message: str
    detail: Mapping[str, object]
    state: ActionState
    created_s: float
    changed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to act. Every write carries `token`; a newer token refuses an older one's writes."""

    name: str
    holder: str
    token: int
    expires_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFence:
    """A standing fence and the plan's reason for it. `placement` maps node name to GPUs."""

    beneficiary: JobKey
    placement: Mapping[str, int]
    created_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """A checkpoint a job confirmed."""

    job_id: str
    step: int | None
    path: str
    size_bytes: int | None
    saved_s: float
    confirmed_s: float
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionRecord:
    """A line of the victim's ledger: who took what from whom, why, and what was lost (GPU seconds)."""

    victim: JobKey
    victim_user: str
    beneficiary: str
    reason: str
    from_queue: str
    to_queue: str
    gpus: int
    lost_gpu_s: float
    signalled_s: float | None
    confirmed_s: float | None
    ended_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PastUse:
    """GPUs that a queue borrowed on average until `at_s`, what is longer ago counting less."""

    queue: str
    gpus: float
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, for timelines. `source` is `daemon`, `agent:<node>` or `slurm`."""

    at_s: float
    source: str
    kind: str
    job_id: str | None = None
    message: str = ""
    detail: Mapping[str, object] = field(default_factory=dict[str, object])
    id: int | None = None


class GpuState(StrEnum):
    """What a job's GPUs on one node do. No rule acts on UNKNOWN."""

    WORKING = "working"
    IDLE = "idle"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuActivity:
    """What an agent last said of a job's GPUs on its node: all of them idle since `idle_since_s`, or not.

    `started_s` is when the job's run there began, `mean_percent` and `peak_memory_mib` (of one GPU) are over that run
    so far. An agent repeats that a job is idle: from `valid_until_s` on, nobody knows.
    """

    job_id: str
    node: str
    state: GpuState
    at_s: float
    valid_until_s: float
    started_s: float
    gpus: int
    idle_since_s: float | None = None
    mean_percent: float | None = None
    peak_memory_mib: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """A job that is spared although its GPUs are idle, until `keep_until_s`, because `asked_by` wanted so."""

    job: JobKey
    keep_until_s: float
    asked_by: str
    asked_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What a running job's owner is told will happen to it at `at_s`. `since_s` is when it was first told."""

    job: JobKey
    reason: str
    since_s: float
    at_s: float
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """A policy as applied. `document` is the YAML text, `version` counts from 1."""

    version: int
    document: str
    applied_by: str
    applied_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job as slurmext knows it. `reasons` are those it waited for, oldest first, as `CODE@seconds` (Unix)."""

    job: JobKey
    name: str = ""
    user: str = ""
    account: str = ""
    queue: str = ""
    state: str = ""
    gpus: int = 0
    nodes: str = ""
    reason: str = ""
    message: str = ""
    reasons: str = ""
    ckpt: str | None = None
    preempted: int = 0
    restarts: int = 0
    start_s: float | None = None
    end_s: float | None = None
    requested_nodes: str = ""
    updated_s: float = 0

    def is_asked_for(
        self, *, active: bool, user: str | None, queue: str | None, state: str | None, ended_since_s: float | None
    ) -> bool:
        """Whether it passes the filters of `Store.jobs`."""
        return (
            (not active or self.end_s is None)
            and user in {None, self.user}
            and state in {None, self.state}
            and (queue is None or self.queue == queue or self.queue.startswith(f"{queue}/"))
            and (ended_since_s is None or self.end_s is None or self.end_s >= ended_since_s)
        )
