"""The law of pre-drain, written apart from the planner's counting: change by change, job by job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import inf

from slurmext.model.job import Job, JobState
from slurmext.model.node import NodeState
from slurmext.model.queue import PreDrain
from slurmext.policy.invariants.case import Case
from slurmext.policy.tree import ROOT, QueueTree, queue_tree

Holders = Mapping[str, int]
"""GPUs by job id."""


def nobody_in_the_way(case: Case) -> Iterator[str]:
    """Nobody starts who would be in the way of the calendar even if nobody else started; who starts all the same where
    the queue tells is told.
    """
    owed = {fence.beneficiary for fence in case.snapshot.fences}
    owed |= {job.evicting_for for job in case.snapshot.jobs if job.evicting_for is not None}
    told = {note.job for note in case.plan.note}
    running = holders(case, promised=False)
    for release in case.plan.release:
        job = case.jobs[release.job]
        gpus = sum(part.gpus for part in release.placement)
        at_s = in_the_way(case, job, gpus, running) if gpus and job.id not in owed else None
        if at_s is None:
            continue
        if not tells(case, job):
            yield f"{job.id} starts although it is in the way at {at_s:g}"
        elif job.id not in told:
            yield f"{job.id} starts and is not told of {at_s:g}"


def tells(case: Case, job: Job) -> bool:
    """Whether the job's queue starts it although it is in the way, and tells it; not one that nobody may preempt."""
    telling = {queue.path for queue in case.snapshot.queues if queue.pre_drain is PreDrain.TELL}
    return job.preemptible and job.queue in telling


def holders(case: Case, *, promised: bool) -> dict[str, int]:
    """GPUs of every job that stays; with `promised` also of those that start or are promised GPUs by this plan."""
    found = {
        job.id: job.placed_gpus or (job.gpus if job.state is not JobState.UNKNOWN else 0)
        for job in case.snapshot.jobs
        if job.state in {JobState.RUNNING, JobState.SUSPENDED, JobState.UNKNOWN} and job.evicting_for is None
    }
    if promised:
        for release in case.plan.release:
            found[release.job] = sum(part.gpus for part in release.placement)
        for fence in case.plan.fence:
            job = case.jobs.get(fence.beneficiary)
            if job is not None:
                found[job.id] = max(job.least_tasks * job.gpus_per_task, sum(part.gpus for part in fence.placement))
    return found


def in_the_way(case: Case, job: Job, gpus: int, held_by: Holders) -> float | None:
    """The first change at which the job with these GPUs would use more than is its queue's then."""
    now_s = case.snapshot.now_s
    times = sorted({change.at_s for queue in case.snapshot.queues for change in queue.changes if change.at_s > now_s})
    total = sum(node.gpus for node in case.snapshot.nodes if node.state is NodeState.UP)
    now = case.tree
    for at_s in times:
        if _end(job, now_s) <= at_s:
            break
        then = _tree_at(case, at_s)
        past = [(case.jobs[name], held) for name, held in held_by.items() if name != job.id]
        used = [0] * len(then.nodes)
        for other, held in past:
            if other.queue in now.leaf_of and _end(other, now_s) > at_s:
                for index in now.nodes[now.leaf_of[other.queue]].lineage:
                    used[index] += held
        leaf = now.leaf_of[job.queue]
        if used[now.own(leaf).index] + gpus <= then.nodes[now.own(leaf).index].guaranteed:
            continue
        for index in now.nodes[leaf].lineage:
            node = then.nodes[index]
            if node.max is not None and used[index] + gpus > node.max:
                return float(at_s)
            parent = node.parent if node.parent is not None else ROOT
            others = [_others(tree, parent, index) for tree in (now, then)]
            borrowed = sum(
                max(0, used[child] + (gpus if child == index else 0) - then.nodes[child].guaranteed)
                for child in then.nodes[parent].children
            )
            pool = _whole(then, parent, total) - sum(
                then.nodes[child].guaranteed for child in then.nodes[parent].children
            )
            if others[1] > others[0] and used[index] + gpus > node.guaranteed and borrowed > pool:
                return float(at_s)
    return None


def _whole(tree: QueueTree, parent: int, total: int) -> int:
    return total if parent == ROOT else tree.nodes[parent].guaranteed


def _others(tree: QueueTree, parent: int, index: int) -> int:
    """What the queues beside it are guaranteed."""
    return sum(tree.nodes[child].guaranteed for child in tree.nodes[parent].children if child != index)


def _end(job: Job, now_s: float) -> float:
    if job.time_limit_s is None:
        return inf
    running = job.state is not JobState.PENDING and job.started_s is not None
    return (job.started_s if running and job.started_s is not None else now_s) + job.time_limit_s


def _tree_at(case: Case, at_s: float) -> QueueTree:
    if at_s not in case.trees_at:
        case.trees_at[at_s] = _changed_tree(case, at_s)
    return case.trees_at[at_s]


def _changed_tree(case: Case, at_s: float) -> QueueTree:
    queues = list(case.snapshot.queues)
    for number, queue in enumerate(queues):
        for change in queue.changes:
            if change.at_s <= at_s:
                queues[number] = replace(
                    queues[number],
                    guaranteed=change.guaranteed,
                    reserved=change.reserved,
                    max=change.max,
                    lending_limit=change.lending_limit,
                    by_type=change.by_type,
                )
    return queue_tree(replace(case.snapshot, queues=tuple(queues)))
