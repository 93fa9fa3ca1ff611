"""Who is asked next.

Inside a queue `job_sort` decides. Between queues a tournament does: from the root down, always the child that comes
first by queue priority and then by how little it uses for its weight. Every admission moves its queue back, so idle
GPUs are filled progressively towards the weighted fair share, at every level.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from slurmext.model.job import Job, Seconds
from slurmext.model.slicing import SliceJob
from slurmext.policy.ledger import Usage
from slurmext.policy.tree import ROOT, QueueNode, QueueTree

QueueKey = tuple[float, ...]
RankOf = Callable[[QueueNode], QueueKey]
Waiting = Mapping[int, Sequence[Sequence[Job]]]
"""Pending jobs per leaf, in rows of jobs that are alike."""


def by_guarantee(usage: Usage) -> RankOf:
    """Queues that use least of their guarantee first."""
    return lambda node: (-node.priority, usage.total[node.index] / node.guaranteed if node.guaranteed else float("inf"))


def by_borrowing(usage: Usage, past: Mapping[str, float] | None = None, past_factor: float = 0) -> RankOf:
    """Queues that borrow least for their weight first; weight 0 borrows what nobody else wants.

    What a queue borrowed in the `past` (GPUs on average, by path) counts with `past_factor` as if it borrowed it now.
    """
    before = {path: past_factor * gpus for path, gpus in (past or {}).items()} if past_factor else {}

    def rank(node: QueueNode) -> QueueKey:
        borrowed = max(0, usage.total[node.index] - node.guaranteed) + before.get(node.path, 0)
        return (-node.priority, borrowed / node.weight if node.weight > 0 else float("inf"), borrowed)

    return rank


def sorted_jobs(jobs: Iterable[Job], job_sort: str, user_gpus: Mapping[str, int]) -> list[Job]:
    """Pending jobs of one queue in the order they are asked. `user_gpus` is what each user runs in the queue now.

    `fair` takes turns between users: a job counts as late as what its user runs and has waiting before it.
    """
    ordered = sorted(jobs, key=arrival)
    for key in reversed([part.strip() for part in job_sort.split(",") if part.strip()]):
        if key == "priority":
            ordered.sort(key=lambda job: -job.priority)
        elif key == "fifo":
            ordered.sort(key=lambda job: job.submitted_s)
        elif key == "fair":
            ahead = dict(user_gpus)
            turn: dict[str, int] = {}
            for job in ordered:
                turn[job.id] = ahead.get(job.user, 0)
                ahead[job.user] = turn[job.id] + job.gpus
            ordered.sort(key=lambda job: turn[job.id])
    return ordered


def arrival(job: Job | SliceJob) -> tuple[Seconds, int, int, str]:
    """Sorts jobs as they came."""
    return (job.submitted_s, *_counted(job.id))


def _counted(job_id: str) -> tuple[int, int, str]:
    """Slurm's ids (`9`, `10`, `12_4`) as it counts them: many jobs are submitted within one second. Others as text."""
    job, _, task = job_id.partition("_")
    if job.isdecimal() and (not task or task.isdecimal()):
        return int(job), int(task) if task else -1, ""
    return -1, -1, job_id


class Tournament:
    """Hands out pending jobs one by one. Tell it with `moved` when a queue's usage changed.

    `waiting` is per leaf the rows of jobs in order; jobs of one row are alike, so that what was refused to one of them
    is refused to the `rest` of its row.
    """

    __slots__ = ("_entry", "_heaps", "_rank", "_tree", "_waiting")

    def __init__(self, tree: QueueTree, waiting: Waiting, rank: RankOf) -> None:
        self._tree, self._rank = tree, rank
        self._waiting = {leaf: deque(deque(row) for row in rows if row) for leaf, rows in waiting.items()}
        self._waiting = {leaf: rows for leaf, rows in self._waiting.items() if rows}
        live = {index for leaf in self._waiting for index in tree.nodes[leaf].lineage}
        self._entry: dict[int, tuple[QueueKey, str, int]] = {}
        self._heaps: dict[int, list[tuple[QueueKey, str, int]]] = {}
        for index in sorted(live):
            node = tree.nodes[index]
            self._entry[index] = (rank(node), node.key, index)
            self._heaps.setdefault(ROOT if node.parent is None else node.parent, []).append(self._entry[index])
        for heap in self._heaps.values():
            heapify(heap)

    def next(self) -> tuple[int, Job] | None:
        """The next job and its leaf; None when all were asked."""
        index = ROOT
        while True:
            heap = self._heaps.get(index, [])
            while heap and self._entry.get(heap[0][2]) != heap[0]:
                heappop(heap)
            if heap:
                index = heap[0][2]
                continue
            if index in self._waiting:
                rows = self._waiting[index]
                while rows and not rows[0]:
                    rows.popleft()
                if rows:
                    return index, rows[0].popleft()
                del self._waiting[index]
                self._close(index)
                index = ROOT
                continue
            if index == ROOT:
                return None
            self._close(index)
            index = ROOT

    def rest(self, leaf: int) -> list[Job]:
        """Jobs of the row that the leaf's last job came from; they are not handed out any more."""
        rows = self._waiting.get(leaf)
        return list(rows.popleft()) if rows else []

    def moved(self, leaf: int) -> None:
        """Usage of the leaf's lineage changed: rank it anew."""
        for index in self._tree.nodes[leaf].lineage:
            if index in self._entry:
                node = self._tree.nodes[index]
                fresh = (self._rank(node), node.key, index)
                if fresh != self._entry[index]:
                    self._entry[index] = fresh
                    heappush(self._heaps[ROOT if node.parent is None else node.parent], fresh)

    def _close(self, index: int) -> None:
        """A queue has nobody left to ask."""
        self._entry.pop(index, None)
