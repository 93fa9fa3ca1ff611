"""Laws of being served: nothing idles, and guaranteed demand does not wait, where somebody could start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from slurmext.model.job import Job, JobState
from slurmext.model.plan import Reason
from slurmext.policy.invariants.case import Case, evicting, eviction_of, summed
from slurmext.policy.invariants.draining import holders, in_the_way, tells
from slurmext.policy.invariants.leaving import spared_jobs_untouched
from slurmext.policy.planner import aftermath, plan
from slurmext.policy.tree import ROOT


def work_conserving(case: Case) -> Iterator[str]:
    """No admissible pending job would fit on what stays idle."""
    idle = case.idle()
    for fence in case.plan.fence:
        for part in fence.placement:
            idle[part.node] = idle.get(part.node, 0) - part.gpus
    for move in case.plan.move:
        for part in move.target:
            idle[part.node] = idle.get(part.node, 0) - part.gpus
    idle = {name: max(0, gpus) for name, gpus in idle.items()}
    ledger, promised = case.ledger(promised=True), holders(case, promised=True)
    fenced = {fence.beneficiary for fence in case.plan.fence}
    settled = {*case.released, *case.victims, *fenced}
    waiting = {Reason.RECLAIMING, Reason.PREEMPTING, Reason.CONSOLIDATING, Reason.WAITING_NEAR_END}
    kept = {fence.beneficiary: sum(part.gpus for part in fence.placement) for fence in case.plan.fence}
    for job in case.snapshot.jobs:
        # What somebody waits for counts against limits as a whole, also where it cannot be fenced yet.
        missing = job.least_tasks * job.gpus_per_task - kept.get(job.id, 0)
        if case.plan.reasons.get(job.id) in waiting and missing > 0 and job.queue in case.tree.leaf_of:
            ledger.held.add(case.tree.leaf_of[job.queue], job, {"": missing})
    for job in case.snapshot.jobs:
        eligible = (
            job.state is JobState.PENDING
            and job.id not in settled
            and job.queue in case.tree.leaf_of
            and job.blocked is None
            and (job.eligible_s is None or job.eligible_s <= case.snapshot.now_s)
            and case.plan.reasons.get(job.id) not in {*waiting, Reason.ARRAY_MAX, Reason.SLURM_LIMIT}
        )
        if not eligible or job.gpus_per_task == 0:
            continue
        leaf = case.tree.leaf_of[job.queue]
        for gpu_type in sorted({case.nodes[name].gpu_type for name in case.accepted(job)}):
            names = [name for name in case.accepted(job) if case.nodes[name].gpu_type == gpu_type]
            gpus = {gpu_type: job.least_tasks * job.gpus_per_task}
            fits = case.tasks_that_fit(job, idle, names) >= job.least_tasks
            if not fits or ledger.over_limit(ledger.held, leaf, job, gpus) is not None:
                continue
            if not job.preemptible and not ledger.held.within_guarantee(case.own_queue(job), gpus):
                continue
            totals = dict(summed((case.nodes[name].gpu_type, count) for name, count in idle.items()))
            held = sum(gpus.values())
            if not tells(case, job) and in_the_way(case, job, held, promised) is not None:
                continue
            there = {None: sum(idle.values()), **totals}
            if ledger.may_borrow(leaf, gpus, there) and ledger.leaves_headroom(leaf, job, gpus, there):
                yield f"{job.id} would fit ({case.plan.reasons.get(job.id)})"
                break


def guaranteed_demand_is_served(case: Case) -> Iterator[str]:
    """Where nobody is told to go, no job within its own guarantee waits that one borrower's leaving would start."""
    if case.plan.evict or case.plan.move:
        return  # one thing at a time: the next plan sees what these leave behind
    if not case.snapshot.settings.fences_stand:
        return  # without fences who evicts may not be who comes first when the victim is gone
    ledger = case.ledger(promised=True)
    solid, idle = ledger.solid, case.idle()
    for fence in case.plan.fence:
        for part in fence.placement:
            idle[part.node] = max(0, idle.get(part.node, 0) - part.gpus)
    stuck = {Reason.NO_FREE_GPUS, Reason.FRAGMENTED, Reason.BEHIND_IN_QUEUE, Reason.NO_NODE_FITS}
    for job in case.snapshot.jobs:
        if job.state is not JobState.PENDING or case.plan.reasons.get(job.id) not in stuck or case.tree.typed:
            continue
        leaf = case.tree.leaf_of[job.queue]
        node = case.tree.nodes[leaf]
        gpus = {"": job.least_tasks * job.gpus_per_task}
        claims = ledger.claims(leaf, gpus)
        if case.own_queue(job).index != leaf:
            continue  # a parent's own jobs share what their queue is guaranteed with its children
        waited = case.snapshot.now_s - job.submitted_s >= node.preemption_delay_s
        if not waited or leaf not in claims or ledger.over_limit(ledger.held, leaf, job, gpus) is not None:
            continue
        for victim in case.snapshot.jobs:
            other = case.tree.leaf_of.get(victim.queue, ROOT)
            if other in {ROOT, leaf} or any(spared_jobs_untouched(evicting(case, victim))):
                continue
            ancestor = case.tree.common_ancestor(leaf, other)
            if case.tree.below(leaf, ancestor)[-1] not in claims:
                continue
            lost = case.by_type((part.node, part.gpus) for part in victim.placement)
            if not all(solid.can_give(case.tree.nodes[i], lost) for i in case.tree.below(other, ancestor)):
                continue
            free = dict(idle)
            for part in victim.placement:
                free[part.node] = free.get(part.node, 0) + part.gpus
            if case.tasks_that_fit(job, free, case.accepted(job)) >= job.least_tasks and _would_start(
                case, job, victim
            ):
                yield f"{job.id} waits ({case.plan.reasons[job.id]}) although {victim.id} of {victim.queue} could go"
                break


def _would_start(case: Case, job: Job, victim: Job) -> bool:
    """Whether the job, and not another that comes first, would get what the victim leaves behind."""
    also = replace(case.plan, evict=(*case.plan.evict, eviction_of(victim)))
    return any(release.job == job.id for release in plan(aftermath(case.snapshot, also)).release)
