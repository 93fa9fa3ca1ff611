"""What a plan means for one job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from slurmext.model.amounts import counted
from slurmext.model.job import Job, JobState
from slurmext.model.plan import Note, Plan, Reason
from slurmext.model.snapshot import Snapshot
from slurmext.policy.explain.books import Books, books_of
from slurmext.policy.explain.reasons import sentence
from slurmext.policy.explain.start import End, latest_start
from slurmext.policy.order import sorted_jobs


def messages(snapshot: Snapshot, plan: Plan) -> dict[str, str]:
    """One sentence for every pending job of the plan."""
    books = books_of(snapshot, plan)
    jobs = {job.id: job for job in snapshot.jobs}
    return {job_id: sentence(books, jobs[job_id], reason) for job_id, reason in plan.reasons.items()}


def explain(snapshot: Snapshot, plan: Plan, job_id: str) -> str:
    """What the plan means for one job: why it waits, what must happen, when it may start. Lines of text."""
    job = next((job for job in snapshot.jobs if job.id == job_id), None)
    if job is None:
        return f"Job {job_id} is not in the snapshot."
    release = next((release for release in plan.release if release.job == job_id), None)
    if release is not None:
        where = ", ".join(f"{part.gpus} on {part.node}" for part in release.placement)
        return f"Job {job_id} starts now on {release.queue_usage} GPUs of queue {job.queue}: {where}."
    evict = next((evict for evict in plan.evict if evict.job == job_id), None)
    if evict is not None and not evict.beneficiary:
        return (
            f"Job {job_id} must leave ({evict.reason}) queue {evict.from_queue}, for nobody in particular;"
            f" {evict.lost_gpu_s:g} GPU s of work are in no checkpoint."
        )
    if evict is not None:
        return (
            f"Job {job_id} must leave ({evict.reason}): queue {evict.from_queue} gives GPUs back to job"
            f" {evict.beneficiary} of queue {evict.to_queue}; {evict.lost_gpu_s:g} GPU s of work are in no checkpoint."
        )
    move = next((move for move in plan.move if move.job == job_id), None)
    if move is not None:
        where = ", ".join(part.node for part in move.target)
        return f"Job {job_id} moves to {where} so that job {move.beneficiary} fits."
    if job_id not in plan.reasons:
        told = [
            f"; in {note.at_s - snapshot.now_s:.0f} s it {_must(note)} leave ({note.reason})"
            for note in plan.note
            if note.job == job_id
        ]
        return (
            f"Job {job_id} is {job.state} in queue {job.queue} with {counted(job.placed_gpus, 'GPU')} and stays so"
            f"{''.join(told)}."
        )
    account = account_of(books_of(snapshot, plan), job, plan.reasons[job_id])
    first = f"Job {job_id} waits ({account.reason}): {account.sentence}"
    return "\n".join([first, *_what_next(account, float(snapshot.now_s))])


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAccount:
    """Why a job waits and what must happen. Times are the snapshot's.

    `victims` leave for it; `ahead_jobs` of its own queue, asking for `ahead_gpus`, are asked before it; `hopeless`:
    it cannot start as it is. `start_s` is the latest start by `start_how`: `now`, `grace` (victims leave within it),
    `limits` (running jobs use their time limits), or empty and None when nobody can say.
    """

    reason: str
    sentence: str
    victims: tuple[str, ...]
    ahead_jobs: int
    ahead_gpus: int
    hopeless: bool
    start_s: float | None
    start_how: str
    next_ends: tuple[End, ...]


def job_account(snapshot: Snapshot, plan: Plan, job_id: str) -> JobAccount | None:
    """The account of a pending job; None for one that the plan gives no reason and no start."""
    job = next((job for job in snapshot.jobs if job.id == job_id), None)
    if job is None:
        return None
    if any(release.job == job_id for release in plan.release):
        return JobAccount(
            reason="",
            sentence="it starts now",
            victims=(),
            ahead_jobs=0,
            ahead_gpus=0,
            hopeless=False,
            start_s=float(snapshot.now_s),
            start_how="now",
            next_ends=(),
        )
    reason = plan.reasons.get(job_id)
    return None if reason is None else account_of(books_of(snapshot, plan), job, reason)


def account_of(books: Books, job: Job, reason: Reason) -> JobAccount:
    """The account of a job that waits for this reason."""
    ahead = _ahead(books.snapshot, job)
    start = latest_start(books, job, reason)
    return JobAccount(
        reason=reason.value,
        sentence=sentence(books, job, reason),
        victims=books.leaving.get(job.id, ()),
        ahead_jobs=len(ahead),
        ahead_gpus=sum(other.gpus for other in ahead),
        hopeless=reason in {Reason.NO_NODE_FITS, Reason.UNKNOWN_QUEUE, Reason.UNKNOWN_STATE},
        start_s=start.at_s,
        start_how=start.how,
        next_ends=start.next_ends,
    )


def _ahead(snapshot: Snapshot, job: Job) -> list[Job]:
    """Jobs of the same queue that are asked before it and could start as far as Slurm is concerned."""
    queue = next((queue for queue in snapshot.queues if queue.path == job.queue), None)
    if queue is None:
        return []
    waiting, held = list[Job](), Counter[str]()
    for other in snapshot.jobs:
        if other.queue == job.queue and other.state is not JobState.PENDING:
            held[other.user] += other.placed_gpus
        elif other.queue == job.queue:
            later = other.blocked is not None or (other.eligible_s is not None and other.eligible_s > snapshot.now_s)
            if other is job or not later:
                waiting.append(other)
    ordered = sorted_jobs(waiting, queue.job_sort, held)
    return ordered[: ordered.index(job)]


def _what_next(account: JobAccount, now_s: float) -> Iterator[str]:
    if account.ahead_jobs:
        jobs = counted(account.ahead_jobs, "job")
        yield f"Before it in its queue: {jobs} asking for {counted(account.ahead_gpus, 'GPU')}."
    if account.next_ends:
        ends = (
            f"{end.job} ({counted(end.gpus, 'GPU')}) in {max(0, end.at_s - now_s):.0f} s" for end in account.next_ends
        )
        yield f"Next to end by their time limits: {', '.join(ends)}."
    if account.start_s is None:
        return
    if account.start_how == "grace":
        yield f"Estimated start: within {account.start_s - now_s:g} s."
    else:
        yield f"Estimated start: in {account.start_s - now_s:.0f} s if running jobs use their time limits."


def _must(note: Note) -> str:
    return "may have to" if note.reason is Reason.PRE_DRAIN else "must"
