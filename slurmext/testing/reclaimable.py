"""Whether any set of jobs could be asked to go so that a waiting one fits: tried out, apart from the planner's search.

A gang that needs a GPU on every node cannot have one where another queue's job stays within that queue's guarantee.
Who measures how soon guaranteed demand starts has to tell such demand from demand that is late.
"""

from __future__ import annotations

from collections.abc import Sequence

from slurmext.model.job import Job, JobState
from slurmext.model.plan import Plan
from slurmext.model.snapshot import Snapshot
from slurmext.policy.invariants.case import Case, evicting
from slurmext.policy.invariants.leaving import spared_jobs_untouched

_MOST_TRIES = 200_000


def reclaimable(snapshot: Snapshot, job_id: str) -> bool:
    """True when it fits now, or after jobs left that no rule protects; true as well when too much is to be tried."""
    case = Case(snapshot, Plan())
    job = case.jobs[job_id]
    if job.queue not in case.tree.leaf_of:
        return False
    return _Search(case, job).possible()


class _Search:
    def __init__(self, case: Case, job: Job) -> None:
        self._case, self._job, self._tries = case, job, 0
        tree, leaf = case.tree, case.tree.leaf_of[job.queue]
        solid = case.ledger_now().solid
        self._left = {node.index: solid.total[node.index] - node.guaranteed for node in tree.nodes}
        self._levels: dict[str, tuple[int, ...]] = {}
        for other in case.snapshot.jobs:
            held_by = tree.leaf_of.get(other.queue)
            if other.state is not JobState.RUNNING or held_by is None or held_by == leaf:
                continue
            if not any(spared_jobs_untouched(evicting(case, other))):
                self._levels[other.id] = tree.below(held_by, tree.common_ancestor(leaf, held_by))

    def possible(self) -> bool:
        """Jobs of queues that are guaranteed nothing go first: that takes nothing from any other choice."""
        free = dict(self._case.idle())
        kept: list[str] = []
        for job_id, levels in self._levels.items():
            if all(self._case.tree.nodes[index].guaranteed == 0 for index in levels):
                self._give(free, job_id, 1)
            else:
                kept.append(job_id)
        return self._with_some_of(kept, free)

    def _with_some_of(self, jobs: Sequence[str], free: dict[str, int]) -> bool:
        self._tries += 1
        if self._fits(free) or self._tries > _MOST_TRIES:
            return True
        for number, job_id in enumerate(jobs):
            gpus, levels = self._case.jobs[job_id].placed_gpus, self._levels[job_id]
            if any(self._left[index] < gpus for index in levels):
                continue
            for index in levels:
                self._left[index] -= gpus
            self._give(free, job_id, 1)
            if self._with_some_of(jobs[number + 1 :], free):
                return True
            self._give(free, job_id, -1)
            for index in levels:
                self._left[index] += gpus
        return False

    def _give(self, free: dict[str, int], job_id: str, sign: int) -> None:
        for part in self._case.jobs[job_id].placement:
            free[part.node] = free.get(part.node, 0) + sign * part.gpus

    def _fits(self, free: dict[str, int]) -> bool:
        return self._case.tasks_that_fit(self._job, free, self._case.accepted(self._job)) >= self._job.least_tasks
