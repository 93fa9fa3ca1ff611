"""What never ends by itself and stands in a waiting job's way. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from slurmext.model.job import Job, JobState
from slurmext.model.plan import Plan, Reason
from slurmext.model.snapshot import Snapshot
from slurmext.policy.explain.books import books_of, parts_of, within
from slurmext.policy.explain.reasons import limiting_queue


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacles:
    """Running jobs without a time limit that hold GPUs the job could use, and GPUs that are in slices."""

    unlimited_jobs: int
    sliced_gpus: float


def obstacles(snapshot: Snapshot, plan: Plan, job: Job) -> Obstacles:
    """Those in the queue whose max holds the job back, where that is why it waits, else anywhere."""
    path = ""
    if plan.reasons.get(job.id) is Reason.QUEUE_MAX:
        path, _ = limiting_queue(books_of(snapshot, plan), job.queue, job.gpus)
    types = {node.name: node.gpu_type for node in snapshot.nodes}
    unlimited = [
        other
        for other in snapshot.jobs
        if other.state is JobState.RUNNING
        and other.time_limit_s is None
        and other.queue
        and (not path or within(other.queue, path))
        and any(not job.types or types.get(part.node) in job.types for part in other.placement)
    ]
    sliced = sum(part for queue, _, part in parts_of(snapshot) if not path or within(queue, path))
    return Obstacles(unlimited_jobs=len(unlimited), sliced_gpus=round(sliced, 2))
