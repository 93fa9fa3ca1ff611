"""The laws of the contract, executable: over a snapshot and its plan, and over a sequence of such steps.

They are written the slow and obvious way, apart from the planner's own search and indexes, so that a mistake there
shows here. Tests, simulation and the monitor on a live cluster all call `violations`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from slurmext.model.job import Job, JobState
from slurmext.model.node import NodeState
from slurmext.model.plan import Evict, EvictAction, Plan, QueueUsage, Reason
from slurmext.model.snapshot import Snapshot
from slurmext.policy.ledger import Ledger
from slurmext.policy.planner import aftermath, plan
from slurmext.policy.supply import NodeTable
from slurmext.policy.tree import HIDDEN_LEAF, ROOT, QueueNode, QueueTree, queue_tree
from slurmext.policy.victims import ends_within, shrunk, spared

Gpus = dict[str, int]
"""GPUs per node name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A broken law: its name, and what breaks it."""

    law: str
    detail: str

    def __str__(self) -> str:
        return f"{self.law}: {self.detail}"


def violations(snapshot: Snapshot, made: Plan) -> list[Violation]:
    """Every law that the plan breaks as an answer to `snapshot`; empty when all hold."""
    case = _Case(snapshot, made)
    return [Violation(law=law, detail=detail) for law, check in LAWS for detail in check(case)]


class _Case:
    """A snapshot and its plan, looked up."""

    def __init__(self, snapshot: Snapshot, plan: Plan) -> None:
        self.snapshot, self.plan = snapshot, plan
        self.jobs = {job.id: job for job in snapshot.jobs}
        self.nodes = {node.name: node for node in snapshot.nodes}
        self.tree: QueueTree = queue_tree(snapshot)
        self.table = NodeTable(snapshot.nodes)
        self.released = {release.job: release for release in plan.release}
        self.victims: dict[str, list[Evict]] = {}
        for evict in plan.evict:
            self.victims.setdefault(evict.beneficiary, []).append(evict)

    def held(self) -> Gpus:
        """GPUs per node that are not free now."""
        return _summed((part.node, part.gpus) for job in self.snapshot.jobs if _holds(job) for part in job.placement)

    def leaving(self) -> Gpus:
        """GPUs per node that come free without this plan doing anything."""
        settings, now_s = self.snapshot.settings, self.snapshot.now_s
        return _summed(
            (part.node, part.gpus)
            for job in self.snapshot.jobs
            for part in job.placement
            if job.state is JobState.COMPLETING
            or (job.state is JobState.RUNNING and job.evicting_for is not None)
            or (
                job.state is JobState.RUNNING
                and settings.near_end_s > 0
                and ends_within(job, now_s, settings.near_end_s)
            )
        )

    def freed(self, evicts: Iterable[Evict]) -> Gpus:
        """GPUs per node that these evictions free; a shrinking job leaves its beneficiary's nodes first."""
        found: Gpus = {}
        fences = {f.beneficiary: {part.node: part.gpus for part in f.placement} for f in self.plan.fence}
        taken: dict[str, list[Evict]] = {}
        for evict in evicts:
            taken.setdefault(evict.job, []).append(evict)
        for job_id, shares in taken.items():
            job = self.jobs[job_id]
            left: Gpus = {}
            if shares[0].action is EvictAction.SHRINK:
                wanted = [fences.get(evict.beneficiary, {}) for evict in shares]
                left = {part.node: part.gpus for part in shrunk(job, sum(e.tasks for e in shares), wanted)}
            for part in job.placement:
                found[part.node] = found.get(part.node, 0) + part.gpus - left.get(part.node, 0)
        return found

    def idle(self) -> Gpus:
        """Usable GPUs per node that nobody holds and no release takes."""
        held = self.held()
        for release in self.plan.release:
            for part in release.placement:
                held[part.node] = held.get(part.node, 0) + part.gpus
        return {
            node.name: max(0, node.gpus - held.get(node.name, 0))
            for node in self.snapshot.nodes
            if node.state is NodeState.UP
        }

    def ledger_now(self) -> Ledger:
        """Usage before the plan."""
        ledger = Ledger(self.tree)
        for job in self.snapshot.jobs:
            leaf = self.tree.leaf_of.get(job.queue)
            if leaf is None or not _holds(job):
                continue
            by_type = self.by_type((part.node, part.gpus) for part in job.placement)
            if not job.placement and job.state is not JobState.UNKNOWN:
                by_type = {"": job.gpus}
            ledger.held.add(leaf, job.user, by_type)
            ledger.expected.add(leaf, job.user, by_type)
            if job.state is JobState.RUNNING and job.evicting_for is None:
                known = self.table.known
                sure = [part for part in self.table.parts(job.placement) if known >> part[0] & 1]
                ledger.solid.add(leaf, job.user, self.table.by_type(sure))
        return ledger

    def ledger(self, *, promised: bool) -> Ledger:
        """Usage with this plan's releases (and with `promised` what fences promise), before anyone leaves."""
        ledger = self.ledger_now()
        placements = {release.job: release.placement for release in self.plan.release}
        if promised:
            placements |= {
                fence.beneficiary: fence.placement for fence in self.plan.fence if fence.beneficiary in self.jobs
            }
        for job_id, placement in placements.items():
            job = self.jobs[job_id]
            leaf = self.tree.leaf_of.get(job.queue)
            if leaf is not None:
                ledger.start(leaf, job.user, self.by_type((part.node, part.gpus) for part in placement))
        for leaf in set(self.tree.leaf_of.values()):
            ledger.recount(leaf)
        return ledger

    def by_type(self, parts: Iterable[tuple[str, int]]) -> dict[str, int]:
        """GPUs per type; a node nobody listed has type ''."""
        return _summed((self.nodes[node].gpu_type if node in self.nodes else "", gpus) for node, gpus in parts)

    def own_queue(self, job: Job) -> QueueNode:
        """The queue whose guarantee is the job's own."""
        node = self.tree.nodes[self.tree.leaf_of[job.queue]]
        return self.tree.nodes[node.lineage[1]] if node.key.endswith(HIDDEN_LEAF) else node

    def accepted(self, job: Job) -> list[str]:
        """Names of usable nodes of a type the job accepts."""
        return [
            node.name
            for node in self.snapshot.nodes
            if node.state is NodeState.UP and (not job.types or node.gpu_type in job.types)
        ]

    def tasks_that_fit(self, job: Job, free: Gpus, names: Iterable[str]) -> int:
        """How many tasks of the job fit on these nodes."""
        found = 0
        for name in names:
            each = free.get(name, 0) // job.gpus_per_task
            found += each if job.tasks_per_node is None else min(each, job.tasks_per_node)
        return found


def _holds(job: Job) -> bool:
    return job.state is not JobState.PENDING


def _summed(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, amount in pairs:
        found[key] = found.get(key, 0) + amount
    return found


# --- the laws ---------------------------------------------------------------------------------------------------------


def _no_overcommit(case: _Case) -> Iterator[str]:
    """Releases fit on what is idle; fences and moves fit on what is idle or leaves; only nodes that are up are used."""
    held, leaving = case.held(), case.leaving()
    starts = _summed((part.node, part.gpus) for release in case.plan.release for part in release.placement)
    kept = _summed((part.node, part.gpus) for fence in case.plan.fence for part in fence.placement)
    targets = _summed((part.node, part.gpus) for move in case.plan.move for part in move.target)
    sources = _summed((part.node, part.gpus) for move in case.plan.move for part in move.source)
    freed = case.freed(case.plan.evict)
    for name in sorted({*starts, *kept, *targets}):
        node = case.nodes.get(name)
        if node is None or node.state is not NodeState.UP:
            yield f"node {name} is not up"
            continue
        now = held.get(name, 0) + starts.get(name, 0) + targets.get(name, 0)
        if starts.get(name, 0) + targets.get(name, 0) and now > node.gpus:
            yield f"{name}: {now} GPUs in use of {node.gpus}"
        out = freed.get(name, 0) + leaving.get(name, 0) + sources.get(name, 0)
        later = now + kept.get(name, 0) - out
        if kept.get(name, 0) and later > node.gpus:
            yield f"{name}: {later} GPUs promised of {node.gpus}"


def _placements_fit_the_job(case: _Case) -> Iterator[str]:
    """Whole tasks, between the least and the most, within tasks_per_node, on accepted types, one entry a node."""
    for release in case.plan.release:
        job, size = case.jobs[release.job], case.jobs[release.job].gpus_per_task
        if size == 0:
            continue
        tasks = sum(part.gpus for part in release.placement) // size
        if any(part.gpus % size or part.gpus <= 0 for part in release.placement):
            yield f"{job.id}: a task is split between nodes"
        if not job.least_tasks <= tasks <= job.tasks:
            yield f"{job.id}: {tasks} tasks, not {job.least_tasks} to {job.tasks}"
        if job.tasks_per_node is not None and any(part.gpus > job.tasks_per_node * size for part in release.placement):
            yield f"{job.id}: more than {job.tasks_per_node} tasks on a node"
        names = [part.node for part in release.placement]
        if len(set(names)) < len(names) or not set(names) <= set(case.accepted(job)):
            yield f"{job.id}: nodes {names}"


def _never_above_max(case: _Case) -> Iterator[str]:
    """No queue, type or user is above a max because of a release."""
    ledger = case.ledger(promised=False)
    for release in case.plan.release:
        job = case.jobs[release.job]
        for index in case.tree.nodes[case.tree.leaf_of[job.queue]].lineage:
            node = case.tree.nodes[index]
            if node.max is not None and ledger.held.total[index] > node.max:
                yield f"{job.id}: {node.path} holds {ledger.held.total[index]} of max {node.max}"
            for gpu_type, most in node.type_max.items():
                used = case.by_type((part.node, part.gpus) for part in release.placement).get(gpu_type, 0)
                if used and ledger.held.of_type(index, gpu_type) > most:
                    yield f"{job.id}: {node.path} holds {ledger.held.of_type(index, gpu_type)} {gpu_type} of max {most}"
            most = node.user_max.get(job.user)
            if most is not None and ledger.held.users.get((index, job.user), 0) > most:
                yield f"{job.id}: {job.user} is above {most} in {node.path}"
            if not node.may_borrow and not _within(case, ledger, job, node):
                yield f"{job.id}: {node.path} borrows through its fence"


def _spared_jobs_untouched(case: _Case) -> Iterator[str]:
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


def _gangs_stay_whole(case: _Case) -> Iterator[str]:
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


def _guarantees_kept(case: _Case) -> Iterator[str]:
    """Below the common ancestor of taker and giver, no queue that gives falls under its guarantee."""
    solid = case.ledger(promised=False).solid
    for evict in case.plan.evict:
        job = case.jobs[evict.job]
        parts = case.freed([evict]) if evict.action is EvictAction.SHRINK else {p.node: p.gpus for p in job.placement}
        solid.add(case.tree.leaf_of[job.queue], job.user, case.by_type(parts.items()), sign=-1)
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


def _takers_have_a_claim(case: _Case) -> Iterator[str]:
    """Below the common ancestor, the taker's queue would be within its guarantee with this job alone added."""
    for beneficiary, evicts in case.victims.items():
        leaf = case.tree.leaf_of[case.jobs[beneficiary].queue]
        outside = [evict for evict in evicts if evict.reason is not Reason.PREEMPT_PRIORITY]
        if not outside or case.tree.typed:
            continue
        held = case.ledger_now().held
        for evict in case.plan.evict:
            victim = case.jobs[evict.job]
            freed = case.by_type(case.freed([evict]).items())
            held.add(case.tree.leaf_of[victim.queue], victim.user, freed, sign=-1)
        least = case.jobs[beneficiary].least_tasks * case.jobs[beneficiary].gpus_per_task
        for evict in outside:
            ancestor = case.tree.common_ancestor(leaf, case.tree.leaf_of[evict.from_queue])
            node = case.tree.nodes[case.tree.below(leaf, ancestor)[-1]]
            if held.total[node.index] + least > node.guaranteed:
                yield f"{beneficiary} reclaims from {evict.from_queue}, but {node.path} is over its guarantee"


def _non_preemptible_within_guarantee(case: _Case) -> Iterator[str]:
    """Jobs that may not be preempted start within their own queue's guarantee only; borrowers beside them may go."""
    held = case.ledger(promised=False).held
    for release in case.plan.release:
        if release.queue_usage is QueueUsage.BORROWED:
            job = case.jobs[release.job]
            parts = case.by_type((part.node, part.gpus) for part in release.placement)
            held.add(case.tree.leaf_of[job.queue], job.user, parts, sign=-1)
            if not job.preemptible:
                yield f"{job.id} borrows"
    for release in case.plan.release:
        job = case.jobs[release.job]
        node = case.tree.nodes[case.tree.leaf_of[job.queue]]
        if (
            not job.preemptible
            and not case.tree.typed
            and not node.key.endswith(HIDDEN_LEAF)
            and held.total[node.index] > node.guaranteed
        ):
            yield f"{job.id}: {node.path} is over its guarantee"


def _within(case: _Case, ledger: Ledger, job: Job, node: QueueNode) -> bool:
    """Whether the released job's GPUs are within the queue's guarantee, on top of all else that runs."""
    parts = case.by_type((part.node, part.gpus) for part in case.released[job.id].placement)
    leaf = case.tree.leaf_of[job.queue]
    ledger.held.add(leaf, job.user, parts, sign=-1)
    within = ledger.held.within_guarantee(node, parts)
    ledger.held.add(leaf, job.user, parts)
    return within


def _every_beneficiary_fits(case: _Case) -> Iterator[str]:
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


def _no_spare_victim(case: _Case) -> Iterator[str]:
    """No victim, and no task of a shrinking one, can be left out."""
    held, leaving = case.held(), case.leaving()
    starts = _summed((part.node, part.gpus) for release in case.plan.release for part in release.placement)
    for beneficiary, evicts in case.victims.items():
        job = case.jobs[beneficiary]
        others = _summed(
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


def _allowed_with(case: _Case, job: Job, smaller: Sequence[Evict], evicts: Sequence[Evict]) -> bool:
    """Whether the job keeps every limit, and its claim, when only `smaller` leave (and all victims of others)."""
    if case.tree.typed or case.tree.keeps:
        return False  # there a victim can be needed for the count alone; the scenarios cover those
    ledger = case.ledger(promised=True)
    for evict in [*(e for e in case.plan.evict if e not in evicts), *smaller]:
        victim = case.jobs[evict.job]
        ledger.held.add(
            case.tree.leaf_of[victim.queue], victim.user, case.by_type(case.freed([evict]).items()), sign=-1
        )
    leaf = case.tree.leaf_of[job.queue]
    queues = {index for other in case.victims for index in case.tree.nodes[_leaf(case, other)].lineage}
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


def _leaf(case: _Case, job_id: str) -> int:
    return case.tree.leaf_of[case.jobs[job_id].queue]


def _work_conserving(case: _Case) -> Iterator[str]:
    """No admissible pending job would fit on what stays idle."""
    idle = case.idle()
    for fence in case.plan.fence:
        for part in fence.placement:
            idle[part.node] = idle.get(part.node, 0) - part.gpus
    for move in case.plan.move:
        for part in move.target:
            idle[part.node] = idle.get(part.node, 0) - part.gpus
    idle = {name: max(0, gpus) for name, gpus in idle.items()}
    ledger = case.ledger(promised=True)
    fenced = {fence.beneficiary for fence in case.plan.fence}
    settled = {*case.released, *case.victims, *fenced}
    waiting = {Reason.RECLAIMING, Reason.PREEMPTING, Reason.CONSOLIDATING, Reason.WAITING_NEAR_END}
    kept = {fence.beneficiary: sum(part.gpus for part in fence.placement) for fence in case.plan.fence}
    for job in case.snapshot.jobs:
        # What somebody waits for counts against limits as a whole, also where it cannot be fenced yet.
        missing = job.least_tasks * job.gpus_per_task - kept.get(job.id, 0)
        if case.plan.reasons.get(job.id) in waiting and missing > 0 and job.queue in case.tree.leaf_of:
            ledger.held.add(case.tree.leaf_of[job.queue], job.user, {"": missing})
    for job in case.snapshot.jobs:
        eligible = (
            job.state is JobState.PENDING
            and job.id not in settled
            and job.queue in case.tree.leaf_of
            and job.blocked is None
            and (job.eligible_s is None or job.eligible_s <= case.snapshot.now_s)
            and case.plan.reasons.get(job.id) not in waiting
        )
        if not eligible or job.gpus_per_task == 0:
            continue
        leaf = case.tree.leaf_of[job.queue]
        for gpu_type in sorted({case.nodes[name].gpu_type for name in case.accepted(job)}):
            names = [name for name in case.accepted(job) if case.nodes[name].gpu_type == gpu_type]
            gpus = {gpu_type: job.least_tasks * job.gpus_per_task}
            fits = case.tasks_that_fit(job, idle, names) >= job.least_tasks
            if not fits or ledger.over_limit(ledger.held, leaf, job.user, gpus) is not None:
                continue
            if not job.preemptible and not ledger.held.within_guarantee(case.own_queue(job), gpus):
                continue
            totals = dict(_summed((case.nodes[name].gpu_type, count) for name, count in idle.items()))
            if ledger.may_borrow(leaf, gpus, {None: sum(idle.values()), **totals}):
                yield f"{job.id} would fit ({case.plan.reasons.get(job.id)})"
                break


def _guaranteed_demand_is_served(case: _Case) -> Iterator[str]:
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
        waited = case.snapshot.now_s - job.submitted_s >= node.preemption_delay_s
        if not waited or leaf not in claims or ledger.over_limit(ledger.held, leaf, job.user, gpus) is not None:
            continue
        for victim in case.snapshot.jobs:
            other = case.tree.leaf_of.get(victim.queue, ROOT)
            if other in {ROOT, leaf} or any(_spared_jobs_untouched(_only(case, victim))):
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


def _would_start(case: _Case, job: Job, victim: Job) -> bool:
    """Whether the job, and not another that comes first, would get what the victim leaves behind."""
    also = replace(case.plan, evict=(*case.plan.evict, _whole(victim)))
    return any(release.job == job.id for release in plan(aftermath(case.snapshot, also)).release)


def _only(case: _Case, victim: Job) -> _Case:
    """The case with a plan that evicts just this job."""
    only = object.__new__(_Case)
    for name, value in vars(case).items():
        setattr(only, name, value)
    only.plan = Plan(evict=(_whole(victim),))
    return only


def _whole(victim: Job) -> Evict:
    return Evict(
        job=victim.id,
        action=EvictAction.REQUEUE,
        beneficiary="",
        reason=Reason.RECLAIM_GUARANTEE,
        tasks=0,
        lost_gpu_s=0,
        from_queue="",
        to_queue="",
    )


def _one_reason_each(case: _Case) -> Iterator[str]:
    """`reasons` has exactly the jobs that are pending after the plan."""
    pending = {job.id for job in case.snapshot.jobs if job.state is JobState.PENDING} - set(case.released)
    for job_id in sorted(pending ^ set(case.plan.reasons)):
        yield f"{job_id} {'has no reason' if job_id in pending else 'is not pending'}"
    names = [release.job for release in case.plan.release]
    if len(set(names)) < len(names) or any(case.jobs[name].state is not JobState.PENDING for name in names):
        yield f"releases {names}"
    both = {evict.job for evict in case.plan.evict} & set(case.released)
    if both:
        yield f"{sorted(both)} are victims and released"


LAWS: tuple[tuple[str, Callable[[_Case], Iterator[str]]], ...] = (
    ("no overcommit", _no_overcommit),
    ("placements fit the job", _placements_fit_the_job),
    ("never above max", _never_above_max),
    ("spared jobs untouched", _spared_jobs_untouched),
    ("gangs stay whole", _gangs_stay_whole),
    ("no queue pushed below guaranteed", _guarantees_kept),
    ("takers have a claim", _takers_have_a_claim),
    ("non-preemptible within guarantee", _non_preemptible_within_guarantee),
    ("every eviction starts its beneficiary", _every_beneficiary_fits),
    ("minimal victims", _no_spare_victim),
    ("work-conserving", _work_conserving),
    ("guaranteed demand is served", _guaranteed_demand_is_served),
    ("one reason per pending job", _one_reason_each),
)
"""Name and check of each law; a check yields what breaks it."""
