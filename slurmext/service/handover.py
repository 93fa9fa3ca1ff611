"""Which jobs may be released while their victims still leave.

Slurm runs its scheduler at once when a job ends, but looks at a released job only on its next pass, up to a second
later (tried on 22.05: `sched: Running job scheduler` follows a job's end within the millisecond). So a beneficiary
that waits for nothing but jobs that Slurm was just told to end is released before they are gone: the last one's end
starts it. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from slurmext.model.job import HOLDING, Job, JobState
from slurmext.model.plan import QueueUsage, Reason
from slurmext.model.state import ActionKind, ActionRecord, ActionState, Intent, JobKey, StoredFence
from slurmext.service.observe import Known, Observation


def handovers(
    told: Collection[JobKey],
    open_actions: Sequence[ActionRecord],
    fences: Iterable[StoredFence],
    observation: Observation,
) -> list[Intent]:
    """Releases of the beneficiaries whose victims have all been told to end, `told` being those that were just now.

    Only where Slurm cannot start the beneficiary before every victim has left its GPUs: a victim that leaves for a
    quota's sake alone would not hold it back, and the queue would be over its max for as long as the victim takes.
    """
    leaving = dict[str, list[ActionRecord]]()
    for action in open_actions:
        if action.kind is ActionKind.EVICT:
            leaving.setdefault(str(action.detail.get("beneficiary", "")), []).append(action)
    now_due = {job_id for job_id, victims in leaving.items() if any(victim.job in told for victim in victims)}
    jobs = {job.id: job for job in observation.snapshot.jobs} if now_due else {}
    intents = list[Intent]()
    for fence in fences:
        job_id = fence.beneficiary.job_id
        if job_id not in now_due or not _all_told(leaving[job_id], told):
            continue
        known, job = observation.known.get(job_id), jobs.get(job_id)
        if known is None or job is None or known.key != fence.beneficiary or not _waits_plainly(known, job, fence):
            continue
        victims = {victim.job.job_id for victim in leaving[job_id]}
        if _needs_them_all(fence.placement, victims, observation):
            intents.append(_release(known, fence.placement))
    return intents


def _all_told(victims: Iterable[ActionRecord], told: Collection[JobKey]) -> bool:
    return all(
        victim.reason == Reason.RECLAIM_GUARANTEE.value and (victim.job in told or victim.state is ActionState.REQUEUED)
        for victim in victims
    )


def _waits_plainly(known: Known, job: Job, fence: StoredFence) -> bool:
    """Held by us alone, whole, and free to run on the nodes it was promised, whatever else is released."""
    return (
        job.state is JobState.PENDING
        and known.record.held
        and job.blocked is None
        and not job.caps
        and job.eligible_s is None
        and not known.first_nodes
        and sum(fence.placement.values()) == job.gpus
    )


def _needs_them_all(wanted: Mapping[str, int], victims: Collection[str], observation: Observation) -> bool:
    """Whether the beneficiary fits when these victims are gone, and not while any one of them is still there."""
    free = Counter[str]({node.name: node.gpus for node in observation.snapshot.nodes})
    held = dict[str, Counter[str]]()
    for job in observation.snapshot.jobs:
        if job.state not in HOLDING:
            continue
        for part in job.placement:
            if job.id in victims:
                held.setdefault(job.id, Counter())[part.node] += part.gpus
            else:
                free[part.node] -= part.gpus
    fits = all(free[node] >= gpus for node, gpus in wanted.items())
    return (
        fits
        and bool(held)
        and all(any(free[node] - gpus < wanted.get(node, 0) for node, gpus in parts.items()) for parts in held.values())
    )


def _release(known: Known, placement: Mapping[str, int]) -> Intent:
    return Intent(
        kind=ActionKind.RELEASE,
        job=known.key,
        reason=QueueUsage.GUARANTEED.value,
        message=f"on {QueueUsage.GUARANTEED.value} GPUs of {known.queue}, which its victims are leaving",
        detail={"placement": dict(placement), "nodes": sorted(placement), "node_count": None},
    )
