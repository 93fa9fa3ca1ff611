"""Pre-drain: who would be in the way when the calendar makes queues smaller or gives others more.

A job that ends before a change is not touched by it. One that does not is in its way when its queue, or one above it,
would use more than the max that holds then; or when it borrows what the change gives to others. What stays within its
own queue's guarantee after the change is never in the way. A job without time limit never ends.

"In use then" is counted from the jobs that run past the change, so that a queue fills up with short jobs to the last.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import inf

from slurmext.model.job import Job, JobState, Seconds
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot
from slurmext.policy.supply import NodeTable
from slurmext.policy.tree import HIDDEN_LEAF, ROOT, QueueNode, QueueTree, queue_tree

Running = Mapping[tuple[int, int], Mapping[str, int]]
"""GPUs per type by (queue number, changes they are used past)."""

MOST_TIMES = 64
"""So many times of change are looked at, the soonest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coming:
    """The queue tree as it will be: `trees[i]` holds from `times[i]` on. Node numbers are those of the tree now."""

    now: QueueTree
    times: tuple[Seconds, ...]
    trees: tuple[QueueTree, ...]


def coming(snapshot: Snapshot, tree: QueueTree) -> Coming | None:
    """What the calendars of the queues will change; None when nothing is known to."""
    now_s = snapshot.now_s
    found = sorted({change.at_s for queue in snapshot.queues for change in queue.changes if change.at_s > now_s})
    times = found[:MOST_TIMES]
    if not times:
        return None
    busy = [node.path for node in tree.nodes if node.key.endswith(HIDDEN_LEAF)]
    jobs = tuple(Job(id=path, queue=path, state=JobState.PENDING) for path in busy)
    known: dict[tuple[int, ...], QueueTree] = {}
    trees: list[QueueTree] = []
    for at_s in times:
        last = [_last(queue, at_s) for queue in snapshot.queues]
        kinds = tuple(_kind(queue, index) for queue, index in zip(snapshot.queues, last, strict=True))
        if kinds not in known:
            queues = tuple(
                queue if index is None else queue.changed(queue.changes[index])
                for queue, index in zip(snapshot.queues, last, strict=True)
            )
            known[kinds] = queue_tree(replace(snapshot, queues=queues, jobs=jobs))
        trees.append(known[kinds])
    return Coming(now=tree, times=tuple(times), trees=tuple(trees))


def _last(queue: Queue, at_s: Seconds) -> int | None:
    """Number of the change that is in force at that time."""
    found = bisect_right([change.at_s for change in queue.changes], at_s) - 1
    return None if found < 0 else found


def _kind(queue: Queue, index: int | None) -> int:
    """The same number for changes that say the same."""
    if index is None:
        return -1
    wanted = replace(queue.changes[index], at_s=0)
    return next(other for other, change in enumerate(queue.changes) if replace(change, at_s=0) == wanted)


class Drain:
    """GPUs in use past each change, counted up while jobs are planned."""

    def __init__(self, what: Coming, now_s: Seconds, capacity: int) -> None:
        """`capacity` is GPUs of all nodes that are up."""
        self._what, self._now_s = what, now_s
        now, trees = what.now, what.trees
        size = len(now.nodes)
        self._used = [[0] * size for _ in trees]
        self._typed: list[dict[tuple[int, str], int]] = [{} for _ in trees]
        self._borrowed = [[0] * size for _ in trees]
        sums_now = _sums(now)
        self._pool: list[list[int]] = []
        self._taken: list[list[bool]] = []
        for tree in trees:
            sums = _sums(tree)
            caps = (capacity if node.index == ROOT else node.guaranteed for node in tree.nodes)
            self._pool.append([cap - given for cap, given in zip(caps, sums, strict=True)])
            # Queues beside it are guaranteed more than now.
            self._taken.append(
                [
                    node.parent is not None
                    and sums[node.parent] - node.guaranteed > sums_now[node.parent] - before.guaranteed
                    for node, before in zip(tree.nodes, now.nodes, strict=True)
                ]
            )

    def count(self, running: Running) -> None:
        """Count what runs and stays."""
        for (leaf, span), gpus in running.items():
            self._count(leaf, span, gpus, 1)

    def add(self, leaf: int, job: Job, gpus: Mapping[str, int], *, sign: int = 1) -> None:
        """The job will run from now on (or with sign -1 will not)."""
        self._count(leaf, span_of(job, self._what, self._now_s), gpus, sign)

    def _count(self, leaf: int, span: int, gpus: Mapping[str, int], sign: int) -> None:
        amount = sign * sum(gpus.values())
        lineage = self._what.now.nodes[leaf].lineage
        for i in range(span):
            used, nodes = self._used[i], self._what.trees[i].nodes
            for index in lineage:
                node = nodes[index]
                before = max(0, used[index] - node.guaranteed)
                used[index] += amount
                self._borrowed[i][node.parent or ROOT] += max(0, used[index] - node.guaranteed) - before
                if node.type_max:
                    for gpu_type, count in gpus.items():
                        key = (index, gpu_type)
                        self._typed[i][key] = self._typed[i].get(key, 0) + sign * count

    def in_the_way(self, leaf: int, job: Job, gpus: Mapping[str, int]) -> Seconds | None:
        """The first change that the job with these GPUs would be in the way of; None when there is none."""
        total = sum(gpus.values())
        own, lineage = self._what.now.own(leaf), self._what.now.nodes[leaf].lineage
        for i in range(span_of(job, self._what, self._now_s)):
            nodes = self._what.trees[i].nodes
            if self._used[i][own.index] + total <= nodes[own.index].guaranteed:
                continue
            line = [nodes[index] for index in lineage]
            if any(self._over_max(i, node, gpus, total) or self._takes(i, node, total) for node in line):
                return self._what.times[i]
        return None

    def _over_max(self, i: int, node: QueueNode, gpus: Mapping[str, int], total: int) -> bool:
        if node.max is not None and self._used[i][node.index] + total > node.max:
            return True
        return any(
            count and self._typed[i].get((node.index, gpu_type), 0) + count > node.type_max[gpu_type]
            for gpu_type, count in gpus.items()
            if gpu_type in node.type_max
        )

    def _takes(self, i: int, node: QueueNode, total: int) -> bool:
        """Whether the queue would borrow what queues beside it get."""
        if node.parent is None or not self._taken[i][node.index]:
            return False
        used = self._used[i][node.index]
        mine = max(0, used + total - node.guaranteed)
        others = self._borrowed[i][node.parent] - max(0, used - node.guaranteed)
        return mine > 0 and others + mine > self._pool[i][node.parent]


def running_past(what: Coming, snapshot: Snapshot, nodes: NodeTable) -> Running:
    """What runs and stays, by queue and by how many changes it runs past: there are far fewer of those than jobs."""
    tree, now_s = what.now, snapshot.now_s
    found: dict[tuple[int, int], dict[str, int]] = {}
    for job in snapshot.jobs:
        leaf = tree.leaf_of.get(job.queue)
        if leaf is None or not stays(job):
            continue
        by_type = nodes.by_type(nodes.parts(job.placement)) if tree.typed else {"": job.placed_gpus}
        if not job.placement and job.state is not JobState.UNKNOWN:
            by_type = {"": job.gpus}
        counts = found.setdefault((leaf, span_of(job, what, now_s)), {})
        for gpu_type, gpus in by_type.items():
            counts[gpu_type] = counts.get(gpu_type, 0) + gpus
    return found


def span_of(job: Job, what: Coming, now_s: Seconds) -> int:
    """How many changes come before the job's time limit is over."""
    return bisect_left(what.times, end_of(job, now_s))


def _sums(tree: QueueTree) -> list[int]:
    """What the children of each queue are guaranteed together."""
    return [sum(tree.nodes[child].guaranteed for child in node.children) for node in tree.nodes]


def capacity_of(nodes: NodeTable) -> int:
    """GPUs of all nodes that are up."""
    return sum(gpus for index, gpus in enumerate(nodes.gpus) if nodes.usable >> index & 1)


def end_of(job: Job, now_s: Seconds) -> Seconds:
    """When the job's time limit is over if it runs, or else starts now."""
    if job.time_limit_s is None:
        return inf
    started = now_s if job.started_s is None or job.state is JobState.PENDING else job.started_s
    return started + job.time_limit_s


def stays(job: Job) -> bool:
    """Whether the job holds GPUs, and nobody told it to go."""
    holds = job.state in {JobState.RUNNING, JobState.SUSPENDED, JobState.UNKNOWN}
    return holds and job.evicting_for is None


def drain_notes(snapshot: Snapshot, tree: QueueTree, nodes: NodeTable) -> Iterable[tuple[Job, Seconds]]:
    """Running jobs of queues that tell, and when the calendar may cost them their GPUs: of those in the way of a change
    the ones that started last.
    """
    if not tree.changes or not any(node.tells for node in tree.nodes):
        return
    what = coming(snapshot, tree)
    if what is None:
        return
    drain = Drain(what, snapshot.now_s, capacity_of(nodes))
    running = (job for job in snapshot.jobs if stays(job) and job.queue in tree.leaf_of)
    for job in sorted(running, key=lambda job: (job.started_s is None, job.started_s or 0, job.id)):
        leaf = tree.leaf_of[job.queue]
        by_type = nodes.by_type(nodes.parts(job.placement))
        node = tree.nodes[leaf]
        if node.tells and job.preemptible and job.state is JobState.RUNNING:
            at_s = drain.in_the_way(leaf, job, by_type)
            if at_s is not None:
                yield job, at_s
        drain.add(leaf, job, by_type)
