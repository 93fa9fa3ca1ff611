"""Laws of who leaves: only who may, only as many as needed, and for somebody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slurmext.model.job import Job, JobState
from slurmext.model.node import NodeState
from slurmext.model.plan import Evict, EvictAction, Reason
from slurmext.policy.invariants.case import Case, leaf_of, summed
from slurmext.policy.victims import move_cost, spared


def spared_jobs_untouched(case: Case) -> Iterator[str]:
    """Nobody is evicted or moved who may not be."""
    now_s, settings = case.snapshot.now_s, case.snapshot.settings
    for job_id in [evict.job for evict in case.plan.evict] + [move.job for move in case.plan.move]:
        job = case.jobs[job_id]
        if job.state is not JobState.RUNNING or job.evicting_for is not None or job.queue not in case.tree.leaf_of:
            yield f"{job.id} is {job.state}"
            continue
        why = spared(job, settings, now_s, case.tree.nodes[case.tree.leaf_of[job.queue]].min_runtime_s)
        if why is not None:
            yield f"{job.id}: {why}"
        known = {NodeState.UP, NodeState.DRAIN}
        if any(part.node not in case.nodes or case.nodes[part.node].state not in known for part in job.placement):
            yield f"{job.id} runs where nothing is known"


def defragmentation_pays(case: Case) -> Iterator[str]:
    """Who moves for nobody leaves a node wholly free, goes where somebody is, and costs less than that is worth."""
    moves = [move for move in case.plan.move if not move.beneficiary]
    wish, settings, now_s = case.snapshot.defragment, case.snapshot.settings, case.snapshot.now_s
    held, starts = case.held(), summed((p.node, p.gpus) for r in case.plan.release for p in r.placement)
    left = summed((part.node, part.gpus) for move in moves for part in move.source)
    came = summed((part.node, part.gpus) for move in moves for part in move.target)
    if moves and (wish is None or len(moves) > wish.most_moves or case.plan.evict):
        yield f"{len(moves)} jobs move for nobody"
        return
    cost: dict[str, float] = {}
    for move in moves:
        job, node = case.jobs[move.job], move.source[0].node
        cost[node] = cost.get(node, 0.0) + move_cost(job, settings, now_s)
        if move.reason is not Reason.DEFRAGMENT or len(move.source) > 1:
            yield f"{job.id} moves because of {move.reason} from {len(move.source)} nodes"
    for name, gpus in left.items():
        if held.get(name, 0) > gpus or starts.get(name, 0) or came.get(name, 0):
            yield f"{name} is not free when its jobs have moved"
        if wish is not None and cost[name] >= case.nodes[name].gpus * wish.worth_s:
            worth = wish.worth_s * case.nodes[name].gpus
            yield f"{name}: its jobs lose {cost[name]:.0f} GPU s, and it is worth {worth:.0f}"
    for name in came:
        if held.get(name, 0) + starts.get(name, 0) == 0:
            yield f"{name} was wholly free"


def gangs_stay_whole(case: Case) -> Iterator[str]:
    """A job leaves whole, or shrinks no further than its least."""
    for job_id in {evict.job for evict in case.plan.evict}:
        job = case.jobs[job_id]
        taken = [evict for evict in case.plan.evict if evict.job == job_id]
        tasks = sum(evict.tasks for evict in taken)
        running = job.placed_gpus // max(1, job.gpus_per_task)
        if all(evict.action is EvictAction.SHRINK for evict in taken):
            if running - tasks < job.least_tasks:
                yield f"{job.id} would run {running - tasks} tasks, fewer than {job.least_tasks}"
        elif len(taken) > 1 or tasks != running:
            yield f"{job.id}: {tasks} of {running} tasks in {len(taken)} evictions"


def guarantees_kept(case: Case) -> Iterator[str]:
    """Below the common ancestor of taker and giver, no queue that gives falls under its guarantee."""
    solid = case.ledger(promised=False).solid
    for evict in case.plan.evict:
        job = case.jobs[evict.job]
        parts = case.freed([evict]) if evict.action is EvictAction.SHRINK else {p.node: p.gpus for p in job.placement}
        solid.add(case.tree.leaf_of[job.queue], job, case.by_type(parts.items()), sign=-1)
    for evict in case.plan.evict:
        taker, giver = (case.tree.leaf_of[path] for path in (evict.to_queue, evict.from_queue))
        if evict.reason is Reason.PREEMPT_PRIORITY:
            lower = case.jobs[evict.job].priority < case.jobs[evict.beneficiary].priority
            if taker != giver or not lower:
                yield f"{evict.job} is no lower-priority job of {evict.to_queue}"
            continue
        if taker == giver:
            yield f"{evict.job} is reclaimed for its own queue"
        for index in case.tree.below(giver, case.tree.common_ancestor(taker, giver)):
            node = case.tree.nodes[index]
            if not solid.can_give(node, {}):
                yield f"{node.path} keeps {solid.total[index]} of guaranteed {node.guaranteed} after {evict.job} left"


def takers_have_a_claim(case: Case) -> Iterator[str]:
    """Below the common ancestor, the taker's queue would be within its guarantee with this job alone added."""
    if case.tree.typed or not case.plan.evict:
        return
    held = case.ledger_now().held
    for evict in case.plan.evict:
        victim = case.jobs[evict.job]
        freed = case.by_type(case.freed([evict]).items())
        held.add(case.tree.leaf_of[victim.queue], victim, freed, sign=-1)
    for beneficiary, evicts in case.victims.items():
        leaf = case.tree.leaf_of[case.jobs[beneficiary].queue]
        outside = [evict for evict in evicts if evict.reason is not Reason.PREEMPT_PRIORITY]
        least = case.jobs[beneficiary].least_tasks * case.jobs[beneficiary].gpus_per_task
        for evict in outside:
            ancestor = case.tree.common_ancestor(leaf, case.tree.leaf_of[evict.from_queue])
            node = case.tree.nodes[case.tree.below(leaf, ancestor)[-1]]
            if held.total[node.index] + least > node.guaranteed:
                yield f"{beneficiary} reclaims from {evict.from_queue}, but {node.path} is over its guarantee"


def every_beneficiary_fits(case: Case) -> Iterator[str]:
    """When its victims are gone a beneficiary's whole fence is free; it is pending and does not start before."""
    kept = {fence.beneficiary: fence for fence in case.plan.fence}
    for beneficiary in case.victims:
        job = case.jobs.get(beneficiary)
        if job is None or job.state is not JobState.PENDING or beneficiary in case.released:
            yield f"{beneficiary} is not waiting"
            continue
        gpus = sum(part.gpus for part in kept[beneficiary].placement) if beneficiary in kept else 0
        if gpus < job.least_tasks * job.gpus_per_task:
            yield f"{beneficiary} has {gpus} GPUs fenced"


def no_spare_victim(case: Case) -> Iterator[str]:
    """No victim, and no task of a shrinking one, can be left out."""
    held, leaving = case.held(), case.leaving()
    starts = summed((part.node, part.gpus) for release in case.plan.release for part in release.placement)
    for beneficiary, evicts in case.victims.items():
        job = case.jobs[beneficiary]
        others = summed(
            (part.node, part.gpus)
            for fence in case.plan.fence
            if fence.beneficiary != beneficiary
            for part in fence.placement
        )
        for evict in evicts:
            smaller = list(_without_one(evicts, evict))
            freed = case.freed([*smaller, *(e for e in case.plan.evict if e.beneficiary != beneficiary)])
            free = {
                node.name: node.gpus
                - held.get(node.name, 0)
                - starts.get(node.name, 0)
                - others.get(node.name, 0)
                + leaving.get(node.name, 0)
                + freed.get(node.name, 0)
                for node in case.snapshot.nodes
            }
            fits = case.tasks_that_fit(job, free, case.accepted(job)) >= job.least_tasks
            if fits and _allowed_with(case, job, smaller, evicts):
                yield f"{beneficiary} fits without {evict.job}"


def _without_one(evicts: Sequence[Evict], left_out: Evict) -> Iterator[Evict]:
    for evict in evicts:
        if evict is not left_out:
            yield evict
        elif evict.action is EvictAction.SHRINK and evict.tasks > 1:
            yield Evict(
                job=evict.job,
                action=evict.action,
                beneficiary=evict.beneficiary,
                reason=evict.reason,
                tasks=evict.tasks - 1,
                lost_gpu_s=evict.lost_gpu_s,
                from_queue=evict.from_queue,
                to_queue=evict.to_queue,
            )


def _allowed_with(case: Case, job: Job, smaller: Sequence[Evict], evicts: Sequence[Evict]) -> bool:
    """Whether the job keeps every limit, and its claim, when only `smaller` leave (and all victims of others)."""
    if case.tree.typed or case.tree.keeps:
        return False  # there a victim can be needed for the count alone; the scenarios cover those
    ledger = case.ledger(promised=True)
    for evict in [*(e for e in case.plan.evict if e not in evicts), *smaller]:
        victim = case.jobs[evict.job]
        ledger.held.add(case.tree.leaf_of[victim.queue], victim, case.by_type(case.freed([evict]).items()), sign=-1)
    leaf = case.tree.leaf_of[job.queue]
    queues = {index for other in case.victims for index in case.tree.nodes[leaf_of(case, other)].lineage}
    tops = ((case.tree.nodes[index].max, ledger.held.total[index]) for index in queues)
    if any(most is not None and used > most for most, used in tops):
        return False
    for index in case.tree.nodes[leaf].lineage:
        node = case.tree.nodes[index]
        used = ledger.held.total[index]
        if not node.may_borrow and used > node.guaranteed:
            return False
        outside = any(index not in case.tree.nodes[case.tree.leaf_of[evict.from_queue]].lineage for evict in smaller)
        if outside and used > node.guaranteed and any(e.reason is Reason.RECLAIM_GUARANTEE for e in smaller):
            return False
    return job.preemptible or ledger.held.total[case.own_queue(job).index] <= case.own_queue(job).guaranteed
