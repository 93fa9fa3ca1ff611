"""A world in which plans happen: victims leave, come back pending after the requeue delay, beneficiaries start.

Pure: a step is a function from a snapshot and its plan to the next snapshot. Nothing else changes unless asked for,
so a plan must come to rest here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from slurmext.model.job import Job, JobState, Placement
from slurmext.model.plan import EvictAction, Plan
from slurmext.model.snapshot import Snapshot
from slurmext.policy.departures import BEHIND_OTHERS
from slurmext.policy.planner import plan as real_plan
from slurmext.policy.victims import shrunk

Leaves = Callable[[str], bool]
"""Whether this victim (a job id) is gone by the next step; those that are not run on unchanged."""


def everybody(job_id: str) -> bool:
    """All victims leave at once."""
    del job_id
    return True


def step(
    snapshot: Snapshot,
    plan: Plan,
    *,
    leaves: Leaves = everybody,
    after_s: float = 10,
    requeue_delay: bool = False,
    keep_fences: bool = False,
) -> Snapshot:
    """The world `after_s` seconds after the plan was carried out.

    Completing jobs are gone. Victims that left are pending again: at once, or with `requeue_delay` not eligible for
    as long as the settings say. `keep_fences` hands the plan's fences on, as the daemon does.
    """
    now_s = snapshot.now_s + after_s
    starts = {release.job: release.placement for release in plan.release}
    evicted_for = {evict.beneficiary for evict in plan.evict} - {""}
    requeued = {move.job for move in plan.move if move.beneficiary in evicted_for}
    moved = {move.job: move.target for move in plan.move if move.job not in requeued}
    eligible_s = now_s + snapshot.settings.requeue_delay_s if requeue_delay else None
    jobs: list[Job] = []
    for job in snapshot.jobs:
        evicts = [evict for evict in plan.evict if evict.job == job.id]
        if job.id in starts:
            jobs.append(replace(job, state=JobState.RUNNING, placement=starts[job.id], started_s=snapshot.now_s))
        elif evicts and leaves(job.id):
            if evicts[0].action is EvictAction.SHRINK:
                kept = shrunk(job, [(evict.tasks, _fence(plan, evict.beneficiary)) for evict in evicts])
                jobs.append(replace(job, placement=kept))
            elif evicts[0].action is EvictAction.REQUEUE:
                back = _requeued(job, eligible_s)
                behind = evicts[0].reason in BEHIND_OTHERS
                jobs.append(replace(back, submitted_s=snapshot.now_s) if behind else back)
        elif job.id in requeued and leaves(job.id):
            jobs.append(_requeued(job, eligible_s))
        elif job.id in moved and leaves(job.id):
            jobs.append(replace(job, placement=moved[job.id], started_s=now_s, preempted=job.preempted + 1))
        elif job.state is not JobState.COMPLETING:
            jobs.append(job)
    return replace(snapshot, now_s=now_s, jobs=tuple(jobs), fences=plan.fence if keep_fences else ())


def told(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """The world right after the plan was carried out: who was released runs, who must go knows and is still there.

    Fences stand, and no time has passed.
    """
    starts = {release.job: release.placement for release in plan.release}
    going = {move.job: move.beneficiary for move in plan.move} | {evict.job: evict.beneficiary for evict in plan.evict}
    jobs: list[Job] = []
    for job in snapshot.jobs:
        if job.id in starts:
            jobs.append(replace(job, state=JobState.RUNNING, placement=starts[job.id], started_s=snapshot.now_s))
        else:
            jobs.append(replace(job, evicting_for=going[job.id]) if job.id in going else job)
    return replace(snapshot, jobs=tuple(jobs), fences=plan.fence)


def finish(snapshot: Snapshot, job_id: str) -> Snapshot:
    """The job ends."""
    return replace(snapshot, jobs=tuple(job for job in snapshot.jobs if job.id != job_id))


def run(snapshot: Snapshot, rounds: int, **how: object) -> Iterator[tuple[Snapshot, Plan]]:
    """Plan and step, `rounds` times."""
    for _ in range(rounds):
        made = real_plan(snapshot)
        yield snapshot, made
        snapshot = step(snapshot, made, **how)  # type: ignore[arg-type]


def _requeued(job: Job, eligible_s: float | None) -> Job:
    return replace(
        job,
        state=JobState.PENDING,
        placement=(),
        started_s=None,
        preempted=job.preempted + 1,
        eligible_s=eligible_s,
        evicting_for=None,
        idle_since_s=None,
    )


def _fence(plan: Plan, beneficiary: str) -> Mapping[str, int]:
    placement: Placement = next((f.placement for f in plan.fence if f.beneficiary == beneficiary), ())
    return {part.node: part.gpus for part in placement}
