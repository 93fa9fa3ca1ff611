"""Headroom: GPUs that borrowers leave, so that a burst of guaranteed work finds them free, or free within its grace.

Who stays within the guarantee of a queue at the top takes what it likes. Where drainable GPUs count, those are the ones
that a queue at the top borrows for jobs which reclaim could take; one more such job changes nothing, so it may start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from slurmext.model.job import Job, JobState
from slurmext.model.snapshot import Settings
from slurmext.policy.tree import QueueTree


class Headroom:
    """What must stay idle, and what of the GPUs in use counts as idle."""

    __slots__ = ("_counts_drainable", "_drainable", "_gpus", "_tree")

    def __init__(self, settings: Settings, tree: QueueTree, jobs: Iterable[Job]) -> None:
        self._gpus, self._tree = settings.headroom_gpus, tree
        self._counts_drainable = settings.headroom_drainable
        self._drainable: dict[int, int] = {}
        for job in jobs if self._counts_drainable else ():
            leaf = tree.leaf_of.get(job.queue)
            if leaf is not None and job.state is JobState.RUNNING and job.evicting_for is None:
                self.add(leaf, job, job.placed_gpus)

    def add(self, leaf: int, job: Job, gpus: int) -> None:
        """The job starts with so many GPUs, or with a negative number gives them back."""
        if self._counts_drainable and _drainable(job):
            top = self._tree.nodes[leaf].lineage[-1]
            self._drainable[top] = self._drainable.get(top, 0) + gpus

    def allows(self, job: Job, gpus: int, *, idle: int, used: Mapping[int, int] | list[int]) -> bool:
        """Whether a borrower may take `gpus` of the `idle` ones; `used` is GPUs in use per queue."""
        if not self._counts_drainable:
            return idle - gpus >= self._gpus
        if _drainable(job):
            return True
        spare = sum(
            min(max(0, used[top] - self._tree.nodes[top].guaranteed), count) for top, count in self._drainable.items()
        )
        return idle + spare - gpus >= self._gpus


def headroom(settings: Settings, tree: QueueTree, jobs: Iterable[Job]) -> Headroom | None:
    """The site's headroom, None where it keeps none."""
    return Headroom(settings, tree, jobs) if settings.headroom_gpus > 0 else None


def _drainable(job: Job) -> bool:
    return job.preemptible and job.requeue
