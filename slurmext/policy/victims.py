"""Who could be evicted, and what that would cost.

The cost of a victim is what is lost: work since its last checkpoint x GPUs, the restart (requeue delay x GPUs), and
the same restart once more for every time it was evicted before, so that the same job is not hit again and again.
Costs compare as (whole jobs, elastic surplus, age): shrinking comes first, then the cheapest, then the newest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from slurmext.model.job import Job, JobState, Placement, Seconds
from slurmext.model.snapshot import Settings, Snapshot
from slurmext.policy.supply import NodePart, NodeTable
from slurmext.policy.tree import QueueTree

Cost = tuple[float, float, float]
"""(cost of whole jobs, cost of elastic surplus, GPU-seconds they have run)."""

NO_COST: Cost = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A running job that may be evicted. `surplus` tasks of it may be taken while the rest runs on."""

    job: Job
    leaf: int
    lineage: tuple[int, ...]
    parts: tuple[NodePart, ...]
    gpus: int
    by_type: dict[str, int]
    tasks: int
    surplus: int
    whole: Cost
    per_task: Cost

    @property
    def task_gpus(self) -> int:
        """GPUs of one task."""
        return self.job.gpus_per_task


def lost_seconds(job: Job, now_s: Seconds) -> Seconds:
    """Seconds of work since the job's last checkpoint in this run; 0 when nobody knows when it started."""
    known = [at for at in (job.started_s, job.checkpoint_s) if at is not None]
    return max(0, now_s - max(known)) if known else 0


def ends_within(job: Job, now_s: Seconds, span_s: Seconds) -> bool:
    """True when the job's time limit is over within `span_s` seconds."""
    if job.started_s is None or job.time_limit_s is None:
        return False
    return job.started_s + job.time_limit_s - now_s <= span_s


def spared(job: Job, settings: Settings, now_s: Seconds, min_runtime_s: Seconds) -> str | None:
    """Why nobody may evict this running job; None when it may be."""
    if not job.preemptible:
        return "it is not preemptible"
    if not job.requeue:
        return "it cannot be requeued"
    if settings.preemption_budget is not None and job.preempted >= settings.preemption_budget:
        return f"it was evicted {job.preempted} times already, as often as preemption_budget allows"
    if min_runtime_s and (job.started_s is None or now_s - job.started_s < min_runtime_s):
        return f"it has not run for min_runtime_s ({min_runtime_s:g} s) yet"
    if settings.near_end_s and ends_within(job, now_s, settings.near_end_s):
        return f"it ends by itself within near_end_s ({settings.near_end_s:g} s)"
    return None


def move_cost(job: Job, settings: Settings, now_s: Seconds) -> float:
    """GPU-seconds that a requeue costs: work since the last checkpoint, and the restart, dearer each time."""
    restart = float(settings.requeue_delay_s) * (1 + job.preempted) + 1
    return (float(lost_seconds(job, now_s)) + restart) * job.placed_gpus


def candidate(job: Job, snapshot: Snapshot, tree: QueueTree, nodes: NodeTable) -> Candidate | None:
    """The running job as a possible victim; None when a rule spares it or something about it is not known."""
    if job.state is not JobState.RUNNING or job.evicting_for is not None or job.gpus_per_task <= 0:
        return None
    leaf = tree.leaf_of.get(job.queue)
    parts = nodes.parts(job.placement)
    if leaf is None or not parts or any(part.node not in nodes.by_name for part in job.placement):
        return None
    if any(not nodes.known >> index & 1 for index, _ in parts):
        return None
    if spared(job, snapshot.settings, snapshot.now_s, tree.nodes[leaf].min_runtime_s) is not None:
        return None
    gpus = sum(count for _, count in parts)
    tasks = gpus // job.gpus_per_task
    lost = float(lost_seconds(job, snapshot.now_s))
    age = float(max(0, snapshot.now_s - job.started_s)) if job.started_s is not None else 0.0
    return Candidate(
        job=job,
        leaf=leaf,
        lineage=tree.nodes[leaf].lineage,
        parts=tuple(parts),
        gpus=gpus,
        by_type=nodes.by_type(parts),
        tasks=tasks,
        surplus=max(0, tasks - max(1, job.least_tasks)),
        whole=(move_cost(job, snapshot.settings, snapshot.now_s), 0.0, age * gpus),
        per_task=(0.0, (lost + 1) * job.gpus_per_task, age * job.gpus_per_task),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Taking:
    """What is taken of one victim: all of it, or `tasks` of its elastic surplus, with the GPUs that come free."""

    victim: Candidate
    parts: tuple[NodePart, ...]
    by_type: dict[str, int]
    tasks: int
    whole: bool
    cost: Cost

    @property
    def gpus(self) -> int:
        """GPUs that come free, on nodes in use or not."""
        return sum(count for _, count in self.parts)


def take_whole(victim: Candidate) -> Taking:
    """The whole job goes."""
    return Taking(
        victim=victim,
        parts=victim.parts,
        by_type=victim.by_type,
        tasks=victim.tasks,
        whole=True,
        cost=victim.whole,
    )


def take_tasks(victim: Candidate, on_node: dict[int, int], nodes: NodeTable) -> Taking:
    """The job shrinks by these tasks (node number -> tasks)."""
    parts = tuple((index, count * victim.task_gpus) for index, count in sorted(on_node.items()) if count)
    tasks = sum(on_node.values())
    whole, each, age = victim.per_task
    return Taking(
        victim=victim,
        parts=parts,
        by_type=nodes.by_type(parts),
        tasks=tasks,
        whole=False,
        cost=(whole * tasks, each * tasks, age * tasks),
    )


Share = tuple[int, Mapping[str, int]]
"""Tasks that an elastic job loses for one beneficiary, and GPUs per node that the beneficiary waits for."""


def shrunk(job: Job, shares: Iterable[Share]) -> Placement:
    """What an elastic job keeps: for each share it first leaves what that beneficiary waits for, then its last nodes by
    name, because the first one runs its batch script.
    """
    size = job.gpus_per_task
    left = {part.node: part.gpus for part in job.placement}
    last_first = sorted(left, reverse=True)
    rest = 0
    for tasks, wanted in shares:
        for node in last_first:
            count = min(tasks, left[node] // size, -(-wanted.get(node, 0) // size))
            left[node] -= count * size
            tasks -= count  # noqa: PLW2901
        rest += tasks
    for node in last_first:
        count = min(rest, left[node] // size)
        left[node] -= count * size
        rest -= count
    return tuple(replace(part, gpus=left[part.node]) for part in job.placement if left[part.node] > 0)
