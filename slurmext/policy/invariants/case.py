"""A snapshot and its plan, looked up: what every law asks of them."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import replace

from slurmext.model.job import Job, JobState, Seconds
from slurmext.model.node import NodeState
from slurmext.model.plan import Evict, EvictAction, Plan, Reason
from slurmext.model.snapshot import Snapshot
from slurmext.policy.departures import told
from slurmext.policy.headroom import headroom
from slurmext.policy.ledger import Ledger, Usage
from slurmext.policy.supply import NodeTable
from slurmext.policy.tree import QueueNode, QueueTree, queue_tree
from slurmext.policy.victims import ends_within, shrunk

Gpus = dict[str, int]
"""GPUs per node name."""


class Case:
    """A snapshot and its plan, looked up.

    Who leaves for nobody in particular (`departures`) has its own laws, over `before`. To the others those jobs are on
    their way out, as they were to the planner.
    """

    def __init__(self, snapshot: Snapshot, plan: Plan) -> None:
        self.before, self.departures = snapshot, tuple(evict for evict in plan.evict if not evict.beneficiary)
        snapshot = told(snapshot, self.departures)
        plan = replace(plan, evict=tuple(evict for evict in plan.evict if evict.beneficiary))
        self.snapshot, self.plan = snapshot, plan
        self.jobs = {job.id: job for job in snapshot.jobs}
        self.nodes = {node.name: node for node in snapshot.nodes}
        self.tree: QueueTree = queue_tree(snapshot)
        self.table = NodeTable(snapshot.nodes)
        self.trees_at: dict[Seconds, QueueTree] = {}
        self.released = {release.job: release for release in plan.release}
        self.victims: dict[str, list[Evict]] = {}
        for evict in plan.evict:
            self.victims.setdefault(evict.beneficiary, []).append(evict)

    def held(self) -> Gpus:
        """GPUs per node that are not free now."""
        return summed((part.node, part.gpus) for job in self.snapshot.jobs if holds(job) for part in job.placement)

    def leaving(self) -> Gpus:
        """GPUs per node that come free without this plan doing anything."""
        settings, now_s = self.snapshot.settings, self.snapshot.now_s
        return summed(
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
                shrunk_to = shrunk(job, [(e.tasks, fences.get(e.beneficiary, {})) for e in shares])
                left = {part.node: part.gpus for part in shrunk_to}
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
        ledger = Ledger(self.tree, held=Usage(self.tree), lasting=Usage(self.tree), solid=Usage(self.tree))
        ledger.headroom = headroom(self.snapshot.settings, self.tree, self.snapshot.jobs)
        for job in self.snapshot.jobs:
            leaf = self.tree.leaf_of.get(job.queue)
            if leaf is None or not holds(job):
                continue
            by_type = self.by_type((part.node, part.gpus) for part in job.placement)
            if not job.placement and job.state is not JobState.UNKNOWN:
                by_type = {"": job.gpus}
            ledger.held.add(leaf, job, by_type)
            ledger.expected.add(leaf, job, by_type)
            if job.state is JobState.RUNNING and job.evicting_for is None:
                known = self.table.known
                sure = [part for part in self.table.parts(job.placement) if known >> part[0] & 1]
                ledger.solid.add(leaf, job, self.table.by_type(sure))
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
                ledger.start(leaf, job, self.by_type((part.node, part.gpus) for part in placement))
        for leaf in set(self.tree.leaf_of.values()):
            ledger.recount(leaf)
        return ledger

    def by_type(self, parts: Iterable[tuple[str, int]]) -> dict[str, int]:
        """GPUs per type; a node nobody listed has type ''."""
        return summed((self.nodes[node].gpu_type if node in self.nodes else "", gpus) for node, gpus in parts)

    def own_queue(self, job: Job) -> QueueNode:
        """The queue whose guarantee is the job's own."""
        return self.tree.own(self.tree.leaf_of[job.queue])

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


def holds(job: Job) -> bool:
    """Whether what the job is placed on is not free."""
    return job.state is not JobState.PENDING


def summed(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Amounts added up per key."""
    found: dict[str, int] = {}
    for key, amount in pairs:
        found[key] = found.get(key, 0) + amount
    return found


def within(case: Case, ledger: Ledger, job: Job, node: QueueNode) -> bool:
    """Whether the released job's GPUs are within the queue's guarantee, on top of all else that runs."""
    parts = case.by_type((part.node, part.gpus) for part in case.released[job.id].placement)
    leaf = case.tree.leaf_of[job.queue]
    ledger.held.add(leaf, job, parts, sign=-1)
    covered = ledger.held.within_guarantee(node, parts)
    ledger.held.add(leaf, job, parts)
    return covered


def leaf_of(case: Case, job_id: str) -> int:
    """Index of the queue the job sits on."""
    return case.tree.leaf_of[case.jobs[job_id].queue]


def evicting(case: Case, victim: Job) -> Case:
    """The case with a plan that evicts just this job."""
    twin = copy(case)
    twin.plan = Plan(evict=(eviction_of(victim),))
    return twin


def eviction_of(victim: Job) -> Evict:
    """An eviction of the whole job, for nobody in particular."""
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
