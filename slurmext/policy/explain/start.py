"""When a waiting job starts at the latest, from time limits alone, and which running jobs end first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slurmext.model.job import Job, JobState
from slurmext.model.plan import Reason
from slurmext.policy.explain.books import Books, free_gpus, within
from slurmext.policy.explain.reasons import limiting_queue

LEAVING = frozenset({Reason.RECLAIMING, Reason.PREEMPTING, Reason.CONSOLIDATING})
"""Others are on their way out for the job."""

_BY_LIMITS = frozenset(
    {Reason.NO_FREE_GPUS, Reason.BEHIND_IN_QUEUE, Reason.FRAGMENTED, Reason.WAITING_NEAR_END, Reason.QUEUE_MAX}
)
_NAMED = 3
"""So many of the next jobs to end are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A running job whose time limit is over at `at_s`, and the GPUs that come free then."""

    job: str
    queue: str
    gpus: int
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """When a job starts at the latest: `grace` when victims have left, `limits` when running jobs reached their limits.

    `at_s` None: nobody can say. `next_ends` are the first running jobs to end whose GPUs it could use.
    """

    at_s: float | None
    how: str
    next_ends: tuple[End, ...] = ()


def latest_start(books: Books, job: Job, reason: Reason) -> Start:
    """When the job starts at the latest if running jobs use their whole time limit."""
    now_s = float(books.snapshot.now_s)
    if reason in LEAVING:
        return Start(at_s=now_s + books.snapshot.settings.grace_s, how="grace")
    if reason not in _BY_LIMITS:
        return Start(at_s=None, how="")
    path, missing = "", job.gpus - free_gpus(books)
    if reason is Reason.QUEUE_MAX:
        path, most = limiting_queue(books, job.queue, job.gpus)
        missing = books.used[path] + job.gpus - most
        if job.gpus > most:
            return Start(at_s=None, how="")
    ends = sorted(_ends(books, job, path), key=lambda end: (end.at_s, end.job))
    came = 0
    for end in ends:
        came += end.gpus
        if came >= missing:
            return Start(at_s=max(now_s, end.at_s), how="limits", next_ends=tuple(ends[:_NAMED]))
    return Start(at_s=None, how="", next_ends=tuple(ends[:_NAMED]))


def _ends(books: Books, job: Job, path: str) -> Iterator[End]:
    types = {node.name: node.gpu_type for node in books.snapshot.nodes}
    for other in books.snapshot.jobs:
        if other.state is not JobState.RUNNING or other.started_s is None or other.time_limit_s is None:
            continue
        if path and not within(other.queue, path):
            continue
        gpus = sum(part.gpus for part in other.placement if not job.types or types.get(part.node) in job.types)
        if gpus:
            yield End(job=other.id, queue=other.queue, gpus=gpus, at_s=float(other.started_s + other.time_limit_s))
