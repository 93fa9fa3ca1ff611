"""What the service needs of the world, as Protocols. Adapters implement them; tests pass fakes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from slurmext.model.cluster import ClusterView, JobRecord
from slurmext.model.gpu import GpuDevice, GpuSample
from slurmext.model.mig import GpuCard, GpuProcess, MigInstance, SliceUse
from slurmext.model.queue import Queue
from slurmext.model.slice_state import OPEN_SLICES, GpuHold, GpuRecord, SliceRecord, SliceSample, SliceState
from slurmext.model.slicing import GpuUse
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


class Clock(Protocol):
    """Unix seconds."""

    def now(self) -> float:
        """Now, in Unix seconds."""
        ...


class ClusterReader(Protocol):
    """Reads Slurm. Raises SlurmUnavailable when it does not answer."""

    def read(self) -> ClusterView:
        """One batched read of nodes and jobs."""
        ...

    def find(self, job_ids: Collection[str]) -> Mapping[str, JobRecord]:
        """These jobs as Slurm has them now, ended ones included; jobs it no longer knows are left out."""
        ...


class Actuator(Protocol):
    """Acts on jobs through Slurm. Raises SlurmUnavailable (try again) or SlurmRefused (Slurm's own words)."""

    def release(self, job_ids: Sequence[str]) -> Mapping[str, str]:
        """Release held pending jobs; returns job id -> why for those Slurm refused."""
        ...

    def set_nodes(self, job_id: str, nodes: Sequence[str], *, count: int | None = None) -> None:
        """Require these nodes for a pending job (empty: none) and, with `count`, give it that many nodes.

        Without `count` it may be several jobs, a comma list of numbers; refused as soon as one of them is.
        """
        ...

    def hold(self, job_id: str) -> None:
        """Hold a pending job so that its user cannot release it."""
        ...

    def put_first(self, job_id: str) -> None:
        """Have Slurm consider a released job before every other that waits."""
        ...

    def take_over(self, job_id: str) -> None:
        """Hold a pending job like `hold`, and make it eligible now: its user released it to us."""
        ...

    def notify(self, raw_id: str, words: str) -> None:
        """Write a line into a running job's error output; takes SLURM_JOB_ID, for array tasks as well."""
        ...

    def signal(self, job_id: str, signal: str) -> None:
        """Send a signal (`USR1`) to every process of the job: batch shell and steps."""
        ...

    def requeue(self, job_ids: Sequence[str]) -> Mapping[str, str]:
        """Requeue running jobs; returns job id -> why for those Slurm refused."""
        ...

    def hold_requeued(self, job_ids: Sequence[str]) -> None:
        """Begin to hold requeued jobs and make them eligible; does not wait, and may be called until it shows."""
        ...

    def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        ...


class Placeholders(Protocol):
    """Jobs that hold GPUs in Slurm's books. Raises SlurmUnavailable or SlurmRefused."""

    def hold_gpu(self, name: str, node: str, gpu_type: str, partitions: Sequence[str]) -> str:
        """Submit a job that has one GPU of the node and does nothing; returns its id."""
        ...

    def unlimit(self, job_id: str) -> None:
        """Let a job run without a time limit."""
        ...

    def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        ...


class SliceAgents(Protocol):
    """Orders to the agents of nodes. False: the agent is away, and is not told later."""

    def connected(self) -> Collection[str]:
        """Nodes whose agents are connected."""
        ...

    def reserve(self, slices: Sequence[SliceRecord], *, raw_id: str, uid: int, restarts: int) -> bool:
        """Have slices of one job on one node made when it starts; answered by the event `slice_reserved`."""
        ...

    def withdraw(self, node: str, reservation: str) -> bool:
        """Forget a reservation, and free what was made for it; answered by `slice_freed`."""
        ...

    def free_warm(self, node: str, gpu: str, profile: str, start: int) -> bool:
        """Destroy an instance that nobody has."""
        ...

    def set_use(self, node: str, gpu: str, use: GpuUse) -> bool:
        """Make a GPU that nobody uses ready for this use."""
        ...


class GpuDriver(Protocol):
    """Reads a node's GPUs. What cannot be read is left out: it is unknown, and nothing is done about it."""

    def inventory(self) -> tuple[GpuDevice, ...]:
        """The GPUs that answer, by minor number."""
        ...

    def sample(self) -> tuple[GpuSample, ...]:
        """What the GPUs did since they were last asked about, by minor number; who does not answer is left out."""
        ...

    def release(self) -> None:
        """Let go of the driver until the next call: an open one keeps GPUs from being reset."""
        ...


class SliceDriver(Protocol):
    """Cuts a node's GPUs. GPUs and instances are named by UUID. Every method raises GpuDriverError.

    Calls may come from several threads; no call waits for another one that concerns another GPU.
    """

    def cards(self) -> tuple[GpuCard, ...]:
        """The GPUs that answer, by minor number."""
        ...

    def instances(self, gpu: str) -> tuple[MigInstance, ...]:
        """Every GPU instance that exists there, also those without a compute instance; none where MIG is off."""
        ...

    def create(self, gpu: str, profile: str, start: int) -> MigInstance:
        """Make a GPU instance exactly there and the compute instance that fills it. Raises GpuPlaceTaken (also for a
        place that is not legal). What a failure left behind is taken away again if that is possible.
        """
        ...

    def destroy(self, instance: MigInstance) -> None:
        """Take the instance away: compute instance, then GPU instance. Nothing happens when it is gone already.

        Raises GpuOtherInstance when what is there has another UUID or place, GpuInUse when a process still has it.
        """
        ...

    def set_mig(self, gpu: str, *, on: bool) -> None:
        """Change the mode of a GPU that nobody uses. Raises GpuInUse, GpuNeedsReset (it stays as it was)."""
        ...

    def processes(self, gpu: str, instance: MigInstance | None = None) -> tuple[GpuProcess, ...]:
        """Processes on a whole GPU, or on one instance."""
        ...

    def use(self, gpu: str, instance: MigInstance | None = None) -> SliceUse:
        """Memory in use now, and SM use since this was last asked (None at first, and where the card has no GPM)."""
        ...

    def release(self) -> None:
        """Let go of the driver until the next call."""
        ...


class DeviceAccess(Protocol):
    """Who may open the devices of GPUs and instances. Raises DeviceAccessError."""

    def give(self, card: GpuCard, instance: MigInstance | None, *, uid: int, job_id: int) -> None:
        """Only this user (and root) may open the instance; without one: the GPU may be opened as ever."""
        ...

    def take_back(self, card: GpuCard, instance: MigInstance | None, *, job_id: int) -> None:
        """Nobody but root may open the instance any more. Nothing happens when it is gone."""
        ...

    def admit(self, pid: int, devices: Sequence[tuple[GpuCard, MigInstance | None]], *, job_id: int) -> str:
        """Let the job of a process (a task's, before it starts) open these GPUs and instances and no others.

        Where Slurm constrains devices, a slice job could otherwise not open its GPU. Returns the kinds of cgroup it
        was done with; nothing where the process is in none of its job's.
        """
        ...


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
