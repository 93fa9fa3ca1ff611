"""What a plan means for one job."""

from __future__ import annotations

from slurmext.model.plan import Plan
from slurmext.model.snapshot import Snapshot
from slurmext.policy.explain.books import books_of
from slurmext.policy.explain.reasons import sentence
from slurmext.policy.explain.start import latest_start


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
        told = [f"; at {note.at_s:g} it must leave ({note.reason})" for note in plan.note if note.job == job_id]
        return (
            f"Job {job_id} is {job.state} in queue {job.queue} with {job.placed_gpus} GPUs and stays so{''.join(told)}."
        )
    books = books_of(snapshot, plan)
    reason = plan.reasons[job_id]
    start = latest_start(books, job, reason)
    return f"Job {job_id} waits ({reason}): {sentence(books, job, reason)}" + (f"\n{start}" if start else "")
