"""Turns what Slurm says, the policy and what the store remembers into the planner's snapshot. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from slurmext.model.cluster import ClusterView, JobRecord
from slurmext.model.heterogeneous import whole_jobs
from slurmext.model.job import Cap, CapKind, Job, JobState, NodeGpus, Placement
from slurmext.model.policy import Policy
from slurmext.model.slicing import SliceJob
from slurmext.model.snapshot import Fence, Snapshot
from slurmext.model.state import ActionKind, ActionRecord, ActionState, CheckpointRecord, JobKey, JobRow, StoredFence
from slurmext.service.ended import ended_rows
from slurmext.service.idleness import Idleness, about, with_idleness
from slurmext.service.job_queues import Groups, dynamic_queues, queue_of, removed_queues
from slurmext.service.limits import Refused, cap_of, caps_now
from slurmext.service.slices.hosts import hosts
from slurmext.service.slices.memory import SliceMemory, placeholder_jobs, sliced_gpus, usage_jobs
from slurmext.service.slices.world import slice_job
from slurmext.service.staging.needs import ModelNeed
from slurmext.service.totals import with_totals
from slurmext.service.whole_nodes import with_whole_nodes

_USER_HOLD = "JobHeldUser"


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What the store remembers that Slurm does not know."""

    rows: Mapping[str, JobRow]
    open_actions: Sequence[ActionRecord]
    checkpoints: Mapping[str, CheckpointRecord]
    preempted: Mapping[JobKey, int]
    fences: Sequence[StoredFence]
    not_before: Mapping[JobKey, tuple[float, str]]
    idleness: Idleness = Idleness()
    past_gpus: Mapping[str, float] = field(default_factory=dict[str, float])
    slices: SliceMemory = field(default_factory=SliceMemory)
    models: Mapping[str, ModelNeed] = field(default_factory=dict[str, ModelNeed])
    refused: Mapping[str, Refused] = field(default_factory=dict[str, Refused])


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A managed job: Slurm's record with its key, queue and what the snapshot makes of it.

    `stray` is a pending job that nothing holds although the daemon did not release it: let through while no daemon
    was there, or requeued by Slurm itself. `reasons` are those it waited for so far. `limited`: a limit of Slurm's own
    holds back jobs like it. `row` is what the store has of it.
    """

    record: JobRecord
    key: JobKey
    queue: str | None
    first_nodes: str
    stray: bool = False
    reasons: str = ""
    limited: bool = False
    row: JobRow | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A snapshot and the way back from its job ids to Slurm. `rivals`: jobs outside all queues wait in Slurm, too.

    `slices` are the jobs of slices. They are `known`, but in the snapshot only as what their queues use. `het` are
    heterogeneous jobs as wholes, with GPUs or a --ckpt: nothing is planned for them.
    """

    snapshot: Snapshot
    known: Mapping[str, Known]
    ended: tuple[JobRow, ...] = ()
    rivals: bool = False
    slices: tuple[SliceJob, ...] = ()
    het: Mapping[str, Known] = field(default_factory=dict[str, "Known"])

    def find(self, job_id: str) -> Known | None:
        """A job that may be told to save, by the id that Slurm's commands take."""
        return self.known.get(job_id) or self.het.get(job_id)


def observe(
    view: ClusterView,
    policy: Policy,
    memory: Memory,
    now_s: float,
    groups_of: Callable[[str], Sequence[str]] = lambda _user: (),
) -> Observation:
    """The world as `plan()` shall see it. `groups_of` gives a user's Unix groups, the primary one first."""
    everybody = Groups(groups_of if policy.asks_groups else lambda _user: ())
    limited = {group for queue in (*policy.queues, *policy.dynamic.values()) for group in queue.groups}
    releases = {
        a.job: a for a in memory.open_actions if a.kind is ActionKind.RELEASE and a.state is ActionState.RELEASED
    }
    evictions = {a.job: a for a in memory.open_actions if a.kind is ActionKind.EVICT}
    known = dict[str, Known]()
    jobs = list[Job]()
    slices = list[SliceJob]()
    unmanaged = Counter[str]()
    placeholders = dict[str, bool]()
    view = with_whole_nodes(with_totals(view))
    limits = caps_now(memory.refused, view, now_s)
    for record in view.jobs:
        if record.slurm_id in memory.slices.placeholders:
            placeholders[record.slurm_id] = record.state is not JobState.PENDING
            continue
        if not _managed(record):
            for part in record.placement:
                unmanaged[part.node] += part.gpus
            continue
        row = memory.rows.get(record.slurm_id)
        key = _key(record, row)
        queue = queue_of(record, policy, everybody)
        release = releases.get(key)
        pending = record.state is JobState.PENDING and not record.held
        stray = pending and release is None and key not in evictions and not record.reserved
        caps = _caps(record, limits)
        known[record.slurm_id] = Known(
            record=record,
            key=key,
            queue=queue,
            first_nodes=row.requested_nodes if row and row.job == key else record.required_nodes,
            stray=stray,
            reasons=row.reasons if row and row.job == key else "",
            limited=any(cap.kind is CapKind.SLURM for cap in caps),
            row=row if row and row.job == key else None,
        )
        job = _job(record, key, queue, release, evictions.get(key), memory, now_s)
        named = everybody.named(record.user, limited) if limited else ()
        job = replace(job, groups=named, caps=caps) if named or caps else job
        if need := memory.models.get(record.slurm_id):
            job = replace(job, blocked=job.blocked or need.why or None, warm=need.warm)
        if record.annotation is not None and record.annotation.sliced:
            required = hosts(known[record.slurm_id].first_nodes)
            slices.append(slice_job(job, record, memory.slices.by_job.get(key, ()), nodes=required))
        else:
            jobs.append(job)
    nodes = tuple(replace(node, gpus=max(0, node.gpus - unmanaged[node.name])) for node in view.nodes)
    pending = {job.id for job in jobs if job.state is JobState.PENDING}
    fences = tuple(
        Fence(beneficiary=fence.beneficiary.job_id, placement=_placement(fence.placement))
        for fence in memory.fences
        if fence.beneficiary.job_id in pending
    )
    jobs += [*usage_jobs(memory.slices), *placeholder_jobs(memory.slices, placeholders)]
    queues = (*policy.queues, *dynamic_queues((*jobs, *slices), policy))
    rules = {queue.path: queue.idle for queue in queues if queue.idle is not None}
    told = about(memory.idleness, evictions.values()) if rules else frozenset[str]()
    if told:
        jobs = [
            with_idleness(
                job,
                known[job.id].record,
                known[job.id].key,
                rules.get(job.queue),
                evictions.get(known[job.id].key),
                memory.idleness,
                now_s,
            )
            if job.id in told
            else job
            for job in jobs
        ]
    snapshot = Snapshot(
        now_s=now_s,
        settings=replace(policy.settings, fences_stand=True),
        nodes=nodes,
        queues=queues,
        jobs=tuple(jobs),
        fences=fences,
        removed=removed_queues(jobs, queues, policy),
        past_gpus=memory.past_gpus,
        sliced=sliced_gpus(memory.slices),
    )
    rivals = any(_rival(record) for record in view.jobs)
    het = _het_jobs(view, memory.rows)
    active = {job_id: one.key for job_id, one in (*known.items(), *het.items())}
    ended = ended_rows(view.ended, active, memory.rows, now_s)
    return Observation(snapshot=snapshot, known=known, ended=ended, rivals=rivals, slices=tuple(slices), het=het)


def _het_jobs(view: ClusterView, rows: Mapping[str, JobRow]) -> dict[str, Known]:
    """Those that anybody may ask us about."""
    return {
        job_id: Known(record=whole, key=_key(whole, rows.get(job_id)), queue=None, first_nodes=whole.required_nodes)
        for job_id, whole in whole_jobs(view.jobs).items()
        if whole.gpus_per_task or (whole.annotation is not None and whole.annotation.ckpt)
    }


def _rival(record: JobRecord) -> bool:
    """A job that Slurm alone starts, and might start on GPUs freed for somebody else."""
    return not _managed(record) and record.state is JobState.PENDING and bool(record.priority) and not record.dependency


def _managed(record: JobRecord) -> bool:
    note = record.annotation
    return note is not None and not record.het and (record.gpus_per_task > 0 or note.sliced)


def _key(record: JobRecord, row: JobRow | None) -> JobKey:
    """The job's key. A requeue gives a job a new submit time; the first one stays its name."""
    if row is not None and (row.job.submit_s == record.submit_s or record.restarts > 0):
        return row.job
    return JobKey(job_id=record.slurm_id, submit_s=record.submit_s)


def _job(
    record: JobRecord,
    key: JobKey,
    queue: str | None,
    release: ActionRecord | None,
    eviction: ActionRecord | None,
    memory: Memory,
    now_s: float,
) -> Job:
    annotation = record.annotation
    assert annotation is not None  # noqa: S101  only managed jobs come here
    state, placement, started = record.state, record.placement, record.start_s
    gpus = record.gpus_per_task
    if state is JobState.PENDING and record.reserved:
        # It asks for nothing of ours before it runs.
        gpus, state = 0, JobState.PENDING if record.held else JobState.RUNNING
    elif state is JobState.PENDING and release is not None and not record.held:
        # Slurm has it and will start it: its GPUs are spoken for.
        state, placement, started = JobState.RUNNING, _placement(_planned(release)), None
    checkpoint = memory.checkpoints.get(record.slurm_id)
    elastic = annotation.gang_min is not None and record.tasks_per_node == 1
    wait = memory.not_before.get(key)
    return Job(
        id=record.slurm_id,
        queue=queue or "",
        state=state,
        user=record.user,
        gpus_per_task=gpus,
        tasks=record.tasks,
        min_tasks=min(annotation.gang_min or record.tasks, record.tasks) if elastic else None,
        tasks_per_node=record.tasks_per_node,
        preemptible=annotation.preemptible,
        requeue=record.requeue and record.batch,
        types=annotation.types or record.types,
        submitted_s=key.submit_s,
        started_s=started,
        time_limit_s=record.time_limit_s,
        checkpoint_s=checkpoint.saved_s if checkpoint and checkpoint.confirmed_s >= key.submit_s else None,
        preempted=memory.preempted.get(key, 0),
        placement=placement,
        eligible_s=_eligible(record, wait, now_s) if state is JobState.PENDING else None,
        blocked=_blocked(record) if state is JobState.PENDING else None,
        evicting_for=str(eviction.detail.get("beneficiary", ""))
        if eviction and state is not JobState.PENDING
        else None,
    )


def _caps(record: JobRecord, limits: Mapping[str, Cap]) -> tuple[Cap, ...]:
    found = list[Cap]()
    if record.array_limit is not None:
        found.append(Cap(name=record.slurm_id.partition("_")[0], most=record.array_limit))
    if (limit := cap_of(record, limits)) is not None:
        found.append(limit)
    return tuple(found)


def _eligible(record: JobRecord, wait: tuple[float, str] | None, now_s: float) -> float | None:
    times = [time for time in (record.eligible_s, record.start_s, wait[0] if wait else None) if time and time > now_s]
    return max(times) if times else None


def _blocked(record: JobRecord) -> str | None:
    if record.dependency:
        return f"waits for {record.dependency}"
    # Once its user released it, it waits under our own hold, which is JobHeldAdmin.
    if record.annotation and record.annotation.user_hold and record.held and record.reason == _USER_HOLD:
        return "held by its user (scontrol release it)"
    return None


def _planned(release: ActionRecord) -> Mapping[str, int]:
    return cast("Mapping[str, int]", release.detail.get("placement") or {})


def _placement(gpus: Mapping[str, int]) -> Placement:
    return tuple(NodeGpus(node=node, gpus=count) for node, count in sorted(gpus.items()))
