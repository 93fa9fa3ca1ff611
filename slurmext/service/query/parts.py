"""What jobs on parts of GPUs have of them, or would."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import ceil

from slurmext.model.job import Job, JobState
from slurmext.model.plan import Plan
from slurmext.model.slice_state import SliceRecord
from slurmext.model.snapshot import Snapshot
from slurmext.model.state import JobKey, JobRow
from slurmext.policy.explain.books import within
from slurmext.policy.explain.queue import QueueAccount, queue_account
from slurmext.service.query.context import Context
from slurmext.service.slices.counted import by_job

_MOST_ENDED = 500
"""Of more ended jobs it is not looked up."""


def parts_of(context: Context, rows: Collection[JobRow], active: Sequence[SliceRecord]) -> dict[JobKey, float]:
    """GPUs that each of the jobs counts as: what it has, had, or would have if it could start."""
    found = dict(by_job(active))
    waiting = [row for row in rows if row.state == "pending" and row.end_s is None and row.job not in found]
    seen = context.slices()
    if seen is not None:
        counts = seen[1].counts
        found |= {row.job: round(counts[row.job.job_id], 2) for row in waiting if row.job.job_id in counts}
    ended = [row.job.job_id for row in rows if row.end_s is not None and not row.gpus][-_MOST_ENDED:]
    return {**by_job(context.store.slices(active=False, job_ids=ended)), **found} if ended else found


def account_with_slices(context: Context, snapshot: Snapshot, plan: Plan, path: str) -> QueueAccount:
    """The queue's account with the jobs that wait for slices."""
    snapshot, plan, asked = _with_slice_jobs(context, snapshot, plan)
    account = queue_account(snapshot, plan, path)
    over = sum(ceil(part) - part for queue, part in asked.items() if within(queue, path))
    return replace(account, waiting_gpus=round(account.waiting_gpus - over, 2))


def _with_slice_jobs(context: Context, snapshot: Snapshot, plan: Plan) -> tuple[Snapshot, Plan, Mapping[str, float]]:
    """The world with the jobs that wait for slices in it, and how many GPUs those of each queue ask for.

    Together those of a queue ask there for as many whole GPUs as that is, rounded up.
    """
    seen = context.slices()
    if seen is None:
        return snapshot, plan, {}
    jobs, asked = list[Job](), dict[str, float]()
    for job in seen[0].jobs:
        part = seen[1].counts.get(job.id)
        if part is None or job.state is not JobState.PENDING or job.id not in seen[1].reasons:
            continue
        before = asked.get(job.queue, 0.0)
        asked[job.queue] = before + part
        whole = ceil(asked[job.queue]) - ceil(before)
        jobs.append(
            Job(id=job.id, queue=job.queue, state=job.state, user=job.user, gpus_per_task=whole, types=job.types,
                submitted_s=job.submitted_s, preemptible=job.preemptible)
        )  # fmt: skip
    reasons = {**plan.reasons, **{job.id: seen[1].reasons[job.id] for job in jobs}}
    return replace(snapshot, jobs=(*snapshot.jobs, *jobs)), replace(plan, reasons=reasons), asked
