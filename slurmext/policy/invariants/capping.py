"""Laws of caps: Slurm is never given more jobs than it starts, and nobody waits for a cap that has room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from slurmext.model.job import CapKind, JobState
from slurmext.model.plan import Reason
from slurmext.policy.invariants.case import Case

_WAITS = {Reason.ARRAY_MAX: CapKind.ARRAY, Reason.SLURM_LIMIT: CapKind.SLURM}
_NOT_ASKED = frozenset({*_WAITS, Reason.NOT_ELIGIBLE, Reason.UNKNOWN_QUEUE})


def never_above_caps(case: Case) -> Iterator[str]:
    """Of the jobs that share a cap no more run and are released than it lets, and those promised GPUs count too."""
    found = _running(case)
    named = {*case.released, *case.victims, *(fence.beneficiary for fence in case.plan.fence)}
    for job_id in sorted(named & case.jobs.keys()):
        for cap in case.jobs[job_id].caps:
            found[cap.name] += 1
            if found[cap.name] > cap.most:
                yield f"{job_id} is one of {found[cap.name]} under cap {cap.name} of {cap.most}"


def caps_are_used(case: Case) -> Iterator[str]:
    """Who waits for a cap waits for jobs that run, or that were asked before it."""
    found = _running(case)
    for job in case.snapshot.jobs:
        if job.state is JobState.PENDING and case.plan.reasons.get(job.id) not in _NOT_ASKED:
            found.update(cap.name for cap in job.caps)
    for job in case.snapshot.jobs:
        kind = _WAITS.get(case.plan.reasons[job.id]) if job.id in case.plan.reasons else None
        if kind is not None and all(found[cap.name] < cap.most for cap in job.caps if cap.kind is kind):
            yield f"{job.id} waits for {', '.join(cap.name for cap in job.caps) or 'a cap it has not'}, which has room"


def _running(case: Case) -> Counter[str]:
    ended = {JobState.PENDING, JobState.COMPLETING}
    return Counter(cap.name for job in case.snapshot.jobs if job.state not in ended for cap in job.caps)
