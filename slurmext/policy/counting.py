"""A snapshot counted: GPUs in use per node, queue and user, and who waits where.

Counting 100,000 jobs takes longer than planning for the few that changed since the last plan. So a count can follow
the world: `Count.follow` looks only at jobs that are not the same as before. What depends on the time, or on two jobs
at once (whether a job's beneficiary still waits), is left to the round.
"""

# ruff: noqa: SLF001  a twin is of the same class

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from slurmext.model.job import HOLDING, Job, JobState
from slurmext.model.snapshot import Snapshot
from slurmext.policy.caps import takes_place
from slurmext.policy.drain import Coming, Running, coming, running_past
from slurmext.policy.ledger import Ledger, Usage
from slurmext.policy.order import sorted_jobs
from slurmext.policy.supply import FreeIndex, NodePart, NodeTable
from slurmext.policy.tree import QueueTree, queue_tree


class Count:
    """What the jobs of a snapshot use. `used` and `completing` are GPUs per node number; `evicting` are jobs on their
    way out by name, `pending` those that wait, `waiting` the same per leaf, `capped` how many count under each cap.
    """

    __slots__ = (
        "_coming", "_held", "_lasting", "_own", "_parents", "_past", "_priorities", "_solid", "_sorted", "capped",
        "completing", "empty", "evicting", "jobs", "nodes", "pending", "snapshot", "tree", "used", "waiting",
    )  # fmt: skip

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.tree: QueueTree = queue_tree(snapshot)
        self.nodes = NodeTable(snapshot.nodes)
        self.empty = FreeIndex(self.nodes.gpus, self.nodes.types, self.nodes.usable)
        self.used = [0] * len(self.nodes.names)
        self.completing = self.used.copy()
        self._held, self._lasting, self._solid = Usage(self.tree), Usage(self.tree), Usage(self.tree)
        self.jobs: dict[str, Job] = {}
        self.pending: dict[str, Job] = {}
        self.waiting: dict[int, dict[str, Job]] = {}
        self.evicting: dict[str, Job] = {}
        self.capped: Counter[str] = Counter()
        self._sorted: dict[int, list[list[Job]]] = {}
        self._priorities: Counter[int] = Counter()
        tree = self.tree
        self._parents = frozenset(path for path, index in tree.by_path.items() if tree.nodes[index].children)
        self._own = {path: 0 for path in self._parents if tree.leaf_of[path] != tree.by_path[path]}
        self._coming: Coming | None = None
        self._past: tuple[Snapshot, Coming | None, Running] | None = None
        for job in snapshot.jobs:
            self._add(job)

    def follow(self, snapshot: Snapshot) -> Count:
        """The count of a later snapshot: this one brought up to date, or a new one where the cluster changed."""
        if not _same(snapshot.nodes, self.snapshot.nodes) or not _same(snapshot.queues, self.snapshot.queues):
            return Count(snapshot)
        known = self.jobs
        came = 0
        for job in snapshot.jobs:
            before = known.get(job.id)
            if before is job:
                continue
            if before is None:
                came += 1
            elif before == job:
                continue
            else:
                self._remove(before)
            if not self._has_leaf(job):
                return Count(snapshot)
            self._add(job)
        if len(known) != len(snapshot.jobs):
            here = {job.id for job in snapshot.jobs}
            if len(here) != len(snapshot.jobs):
                return Count(snapshot)
            for gone in [job for job_id, job in known.items() if job_id not in here]:
                self._remove(gone)
        if any(not jobs for jobs in self._own.values()):
            return Count(snapshot)  # the last job that sat beside its queue's children is gone, and its leaf with it
        self.snapshot = snapshot
        return self

    def fork(self) -> Count:
        """An independent count of the same snapshot."""
        twin = Count.__new__(Count)
        twin.snapshot, twin.tree, twin.nodes, twin.empty = self.snapshot, self.tree, self.nodes, self.empty
        twin.used, twin.completing = self.used.copy(), self.completing.copy()
        twin._held, twin._lasting, twin._solid = self._held.copy(), self._lasting.copy(), self._solid.copy()
        twin.jobs, twin.pending, twin.evicting = self.jobs.copy(), self.pending.copy(), self.evicting.copy()
        twin.waiting = {leaf: jobs.copy() for leaf, jobs in self.waiting.items()}
        twin.capped = self.capped.copy()
        twin._sorted, twin._priorities, twin._parents = self._sorted.copy(), self._priorities.copy(), self._parents
        twin._coming, twin._past, twin._own = self._coming, self._past, self._own.copy()
        return twin

    @property
    def coming(self) -> Coming | None:
        """What the calendars will change from now on; worked out again when a change has come."""
        found = self._coming
        if found is None or found.times[0] <= self.snapshot.now_s:
            found = self._coming = coming(self.snapshot, self.tree)
        return found

    @property
    def running_past(self) -> Running:
        """What runs past the calendars' changes; counted once for a snapshot."""
        if self._past is None or self._past[0] is not self.snapshot or self._past[1] is not self.coming:
            what = self.coming
            running: Running = {}
            if what is not None:
                running = running_past(what, self.snapshot, self.nodes)
            self._past = self.snapshot, what, running
        return self._past[2]

    def ledger(self) -> Ledger:
        """A fresh ledger of who uses what, to plan on."""
        return Ledger(self.tree, held=self._held, lasting=self._lasting, solid=self._solid)

    @property
    def least_priority(self) -> int:
        """The lowest priority of a running job, 0 when nothing runs."""
        return min(self._priorities, default=0)

    def in_order(self, leaf: int) -> list[list[Job]]:
        """The leaf's pending jobs in its order; jobs in a row that differ in nothing a plan looks at are together."""
        found = self._sorted.get(leaf)
        if found is None:
            job_sort = self.tree.nodes[leaf].job_sort
            jobs = self.waiting.get(leaf, {})
            fair = "fair" in job_sort
            users = {job.user: self._held.of_user(leaf, job.user) for job in jobs.values()} if fair else {}
            found = _rows(sorted_jobs(jobs.values(), job_sort, users))
            if not fair:  # that order changes with what users run
                self._sorted[leaf] = found
        return found

    # --- one job ----------------------------------------------------------------------------------------------------

    def _has_leaf(self, job: Job) -> bool:
        """False when the job is the first of its queue's own beside that queue's children: the tree must grow."""
        return job.queue not in self._parents or self.tree.leaf_of[job.queue] != self.tree.by_path[job.queue]

    def _add(self, job: Job) -> None:
        before = self.jobs.get(job.id)
        if before is not None:
            self._remove(before)
        self.jobs[job.id] = job
        if job.queue in self._own:
            self._own[job.queue] += 1
        self._count(job, 1)
        leaf = self.tree.leaf_of.get(job.queue)
        if job.state is JobState.PENDING:
            self.pending[job.id] = job
            if leaf is not None:
                self.waiting.setdefault(leaf, {})[job.id] = job
                self._sorted.pop(leaf, None)
        elif job.evicting_for is not None:
            self.evicting[job.id] = job

    def _remove(self, job: Job) -> None:
        del self.jobs[job.id]
        if job.queue in self._own:
            self._own[job.queue] -= 1
        self._count(job, -1)
        leaf = self.tree.leaf_of.get(job.queue)
        self.evicting.pop(job.id, None)
        if self.pending.pop(job.id, None) is not None and leaf is not None:
            del self.waiting[leaf][job.id]
            self._sorted.pop(leaf, None)

    def _count(self, job: Job, sign: int) -> None:
        if job.state not in HOLDING:
            return
        parts = self.nodes.parts(job.placement)
        for index, gpus in parts:
            self.used[index] += sign * gpus
            if job.state is JobState.COMPLETING:
                self.completing[index] += sign * gpus
        if job.caps and takes_place(job):
            for cap in job.caps:
                self.capped[cap.name] += sign
        if job.state is JobState.RUNNING:
            self._priorities[job.priority] += sign
            if not self._priorities[job.priority]:
                del self._priorities[job.priority]
        leaf = self.tree.leaf_of.get(job.queue)
        if leaf is not None:
            self._charge(leaf, job, parts, sign)

    def _charge(self, leaf: int, job: Job, parts: list[NodePart], sign: int) -> None:
        by_type = self.nodes.by_type(parts)
        known = self.nodes.known
        sure = by_type if all(known >> index & 1 for index, _ in parts) else self._sure(parts)
        unlisted = job.placed_gpus - sum(by_type.values())
        if not job.placement and job.state is not JobState.UNKNOWN:
            unlisted = job.gpus
        if unlisted:
            by_type = {**by_type, "": unlisted}
        self._held.add(leaf, job, by_type, sign=sign)
        if job.state is JobState.COMPLETING or job.evicting_for is not None:
            return
        self._lasting.add(leaf, job, by_type, sign=sign)
        if job.state is JobState.RUNNING:
            known = self.nodes.known
            sure = by_type if all(known >> index & 1 for index, _ in parts) else self._sure(parts)
            self._solid.add(leaf, job, {kind: gpus for kind, gpus in sure.items() if kind}, sign=sign)

    def _sure(self, parts: Iterable[NodePart]) -> dict[str, int]:
        return self.nodes.by_type(part for part in parts if self.nodes.known >> part[0] & 1)


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    return one is other or one == other


def _alike(job: Job) -> tuple[object, ...]:
    """What of a pending job a plan looks at, its place in the order left out."""
    return (
        job.user, job.groups, job.gpus_per_task, job.tasks, job.min_tasks, job.tasks_per_node, job.types, job.priority,
        job.preemptible, job.time_limit_s, job.eligible_s, job.blocked, job.caps,
    )  # fmt: skip


def _rows(jobs: Iterable[Job]) -> list[list[Job]]:
    rows: list[list[Job]] = []
    last: tuple[object, ...] | None = None
    for job in jobs:
        kind = _alike(job)
        if kind == last:
            rows[-1].append(job)
        else:
            rows.append([job])
            last = kind
    return rows
