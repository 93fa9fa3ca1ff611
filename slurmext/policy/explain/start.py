"""When a waiting job starts at the latest, from time limits alone."""

from __future__ import annotations

from slurmext.model.job import Job, JobState
from slurmext.model.plan import Reason
from slurmext.policy.explain.books import Books, free_gpus


def latest_start(books: Books, job: Job, reason: Reason) -> str:
    """When it starts at the latest if running jobs use their whole time limit; empty when that cannot be said."""
    if reason in {Reason.RECLAIMING, Reason.PREEMPTING, Reason.CONSOLIDATING}:
        return f"Estimated start: within {books.snapshot.settings.grace_s:g} s."
    if reason not in {Reason.NO_FREE_GPUS, Reason.BEHIND_IN_QUEUE, Reason.FRAGMENTED, Reason.WAITING_NEAR_END}:
        return ""
    ends = sorted(
        (other.started_s + other.time_limit_s, other.placed_gpus)
        for other in books.snapshot.jobs
        if other.state is JobState.RUNNING and other.started_s is not None and other.time_limit_s is not None
    )
    free = free_gpus(books)
    for end_s, gpus in ends:
        free += gpus
        if free >= job.gpus:
            wait_s = max(0, end_s - books.snapshot.now_s)
            return f"Estimated start: in {wait_s:.0f} s if running jobs use their time limits."
    return ""
