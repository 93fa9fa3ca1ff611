"""Why a job of slices waits when it is for its queue, its user or Slurm: in the words that whole-GPU jobs get. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from slurmext.model.job import Job
from slurmext.model.plan import Plan
from slurmext.model.slicing import SliceJob, SlicePlan
from slurmext.model.snapshot import Snapshot
from slurmext.policy.explain.books import Books, books_of
from slurmext.policy.explain.reasons import sentence
from slurmext.policy.explain.slices import SLICE_SENTENCES


def sentences(snapshot: Snapshot, decided: Plan, jobs: Mapping[str, SliceJob], plan: SlicePlan) -> dict[str, str]:
    """By job, for every reason that the plan gave no details of. `snapshot` and `decided` are of whole-GPU jobs."""
    books: Books | None = None
    found = dict[str, str]()
    for job_id, reason in plan.reasons.items():
        if plan.details.get(job_id) or job_id not in jobs:
            continue
        if reason in SLICE_SENTENCES:
            found[job_id] = SLICE_SENTENCES[reason]
            continue
        books = books_of(snapshot, decided) if books is None else books
        found[job_id] = sentence(books, _as_whole(jobs[job_id]), reason, plan.counts.get(job_id, 1))
    return found


def _as_whole(job: SliceJob) -> Job:
    return Job(
        id=job.id, queue=job.queue, state=job.state, user=job.user, groups=job.groups, types=job.types,
        submitted_s=job.submitted_s, time_limit_s=job.time_limit_s, eligible_s=job.eligible_s, blocked=job.blocked,
        preemptible=job.preemptible,
    )  # fmt: skip
