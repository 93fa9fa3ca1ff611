"""What the store knows of idle GPUs, and what of it the planner may believe."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from slurmext.model.cluster import JobRecord
from slurmext.model.job import Job, JobState
from slurmext.model.plan import Reason
from slurmext.model.queue import IdleRule, Queue
from slurmext.model.state import ActionRecord, Extension, GpuActivity, GpuState, JobKey
from slurmext.ports import Store

_CLOCKS_S = 60.0
"""By how much a node's clock may be behind Slurm's when a run of a job is told from the run before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Idleness:
    """`idle` are the agents' words on idle jobs by job id, `warned` since when jobs have their warning, `left` when
    they last had to leave for it (Unix seconds).
    """

    idle: Mapping[str, Sequence[GpuActivity]] = field(default_factory=dict[str, Sequence[GpuActivity]])
    extensions: Mapping[JobKey, Extension] = field(default_factory=dict[JobKey, Extension])
    warned: Mapping[JobKey, float] = field(default_factory=dict[JobKey, float])
    left: Mapping[JobKey, float] = field(default_factory=dict[JobKey, float])


def remembered(store: Store, queues: Iterable[Queue], preempted: Mapping[JobKey, int], now_s: float) -> Idleness:
    """What the store knows; nothing is asked while no queue minds idle GPUs."""
    if all(queue.idle is None for queue in queues):
        return Idleness()
    idle = dict[str, list[GpuActivity]]()
    for activity in store.gpu_activity(state=GpuState.IDLE):
        idle.setdefault(activity.job_id, []).append(activity)
    return Idleness(
        idle=idle,
        extensions=store.extensions(until_s=now_s),
        warned={notice.job: notice.since_s for notice in store.notices() if notice.reason == Reason.IDLE_GPUS.value},
        left=store.last_left([key for key, times in preempted.items() if times], Reason.IDLE_GPUS.value),
    )


def about(known: Idleness, evictions: Iterable[ActionRecord]) -> frozenset[str]:
    """The jobs that anything is known of; all others are as they are."""
    leaving = (action.job.job_id for action in evictions if action.reason == Reason.IDLE_GPUS.value)
    return frozenset((*known.idle, *(key.job_id for key in known.left), *leaving))


def with_idleness(
    job: Job,
    record: JobRecord,
    key: JobKey,
    rule: IdleRule | None,
    eviction: ActionRecord | None,
    known: Idleness,
    now_s: float,
) -> Job:
    """The job with what is known of its GPUs. One that idled too long waits as if it were submitted when it left."""
    left_s = known.left.get(key, 0.0)
    if eviction is not None and eviction.reason == Reason.IDLE_GPUS.value:
        left_s = eviction.created_s
    if left_s > job.submitted_s and (job.state is JobState.PENDING or eviction is not None):
        job = replace(job, submitted_s=left_s)
    if rule is None or record.state is not JobState.RUNNING:
        return job
    nodes = [part.node for part in record.placement if part.gpus]
    since_s = idle_since(known.idle.get(job.id, ()), nodes, record.start_s, now_s)
    if since_s is None:
        return job
    # Nobody leaves unwarned: idling counts as if it had just been long enough when the warning came, or comes.
    since_s = max(since_s, known.warned.get(key, now_s) - rule.after_s)
    extension = known.extensions.get(key)
    return replace(job, idle_since_s=since_s, keep_until_s=None if extension is None else extension.keep_until_s)


def idle_since(
    words: Collection[GpuActivity], nodes: Collection[str], start_s: float | None, now_s: float
) -> float | None:
    """Since when all GPUs of a job that began on `nodes` at `start_s` idle: on every node, by words that count."""
    if start_s is None or not nodes:
        return None
    fresh = {
        word.node: word.idle_since_s
        for word in of_this_run(words, start_s)
        if word.state is GpuState.IDLE and word.valid_until_s > now_s
    }
    times = [fresh.get(node) for node in nodes]
    return None if None in times else max(start_s, *(time for time in times if time is not None))


def of_this_run(words: Iterable[GpuActivity], start_s: float) -> list[GpuActivity]:
    """The words on the job's run that began at `start_s`."""
    return [word for word in words if word.at_s > start_s and word.started_s > start_s - _CLOCKS_S]
