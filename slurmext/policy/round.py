"""One planning round: the world counted once, and what a pending job may ask for in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

from slurmext.model.job import Job, JobState, NodeGpus, Placement
from slurmext.model.plan import Evict, Move, Reason, Release
from slurmext.model.snapshot import Fence, Snapshot
from slurmext.policy.herd import Need, Victims
from slurmext.policy.hunt import Hunt
from slurmext.policy.ledger import Ledger, Usage
from slurmext.policy.placement import flavors
from slurmext.policy.supply import FreeIndex, NodePart, NodeTable, Supply
from slurmext.policy.tree import HIDDEN_LEAF, QueueNode, QueueTree, queue_tree
from slurmext.policy.victims import candidate, ends_within

HOLDING = frozenset({JobState.RUNNING, JobState.COMPLETING, JobState.SUSPENDED, JobState.UNKNOWN})
"""States in which a job's placement is not free."""


class Standing(IntEnum):
    """What a pending job may ask for, strongest first."""

    FULL = 0
    """Within the guarantee of its own queue and of every queue above: it may reclaim from anybody."""
    OWN = 1
    """Within the guarantee of its own queue, while a queue above is over its own: its siblings must give."""
    CLAIM = 2
    """Beyond its own queue's guarantee, but within that of a queue above."""
    BORROW = 3
    """Beyond every guarantee: it takes what is idle."""


@dataclass(slots=True, kw_only=True, eq=False)
class Promise:
    """GPUs promised to a beneficiary, and who must leave for it. `idle` is the share of them that is free now."""

    leaf: int
    job: Job
    need: Need
    parts: list[NodePart]
    idle: list[NodePart]
    reason: Reason = Reason.WAITING_NEAR_END
    accept: Callable[[Victims], bool] = bool
    victims: Victims = field(default_factory=Victims)
    moves: tuple[Move, ...] = ()


class Round:
    """The state of one planning round. What changes it, from gentle to harsh, is added by the classes built on it:
    Admission (start, wait), Consolidation (move), Eviction (reclaim, preempt), Settlement (the plan as a whole).
    """

    def __init__(self, snapshot: Snapshot, *, may_disrupt: Callable[[str], bool]) -> None:
        self.snapshot = snapshot
        self.may_disrupt = may_disrupt
        self.tree: QueueTree = queue_tree(snapshot)
        self.nodes = NodeTable(snapshot.nodes)
        self.ledger = Ledger(self.tree)
        self.pending = {job.id: job for job in snapshot.jobs if job.state is JobState.PENDING}
        self.evicted_for: dict[str, list[NodePart]] = {}
        self.supply = self._count_everything()
        self.at_start = self.supply.now.copy()
        self.empty = FreeIndex(self.nodes.gpus, self.nodes.types, self.nodes.usable)
        self.least_priority = min((job.priority for job in snapshot.jobs if job.state is JobState.RUNNING), default=0)
        self.unfit: dict[tuple[object, ...], Reason | None] = {}
        self.disruptions: int = 0
        self.hopeless: dict[tuple[object, ...], int] = {}
        self.release: list[Release] = []
        self.evict: list[Evict] = []
        self.move: list[Move] = []
        self.fence: list[Fence] = []
        self.reasons: dict[str, Reason] = {}
        self.growing: list[tuple[int, Job, list[NodePart], int]] = []
        self.promises: list[Promise] = []

    @cached_property
    def hunt(self) -> Hunt:
        """Who could go; looked at only when somebody has to."""
        found = (candidate(job, self.snapshot, self.tree, self.nodes) for job in self.snapshot.jobs)
        return Hunt((c for c in found if c is not None), self.nodes, self.supply, self.ledger)

    def _count_everything(self) -> Supply:
        used = [0] * len(self.nodes.names)
        leaving, ending = used.copy(), used.copy()
        settings, now_s = self.snapshot.settings, self.snapshot.now_s
        for job in self.snapshot.jobs:
            if job.state not in HOLDING:
                continue
            parts = self.nodes.parts(job.placement)
            near = (
                settings.near_end_s > 0
                and job.state is JobState.RUNNING
                and job.evicting_for is None
                and ends_within(job, now_s, settings.near_end_s)
            )
            for index, gpus in parts:
                used[index] += gpus
                if job.state is JobState.COMPLETING or (
                    job.evicting_for is not None and job.evicting_for not in self.pending
                ):
                    leaving[index] += gpus
                elif near:
                    ending[index] += gpus
            if job.evicting_for in self.pending and job.state is JobState.RUNNING:
                self.evicted_for.setdefault(str(job.evicting_for), []).extend(parts)
            self._count_job(job, parts)
        for leaf in sorted(set(self.tree.leaf_of.values())):
            self.ledger.recount(leaf)
        total, table = self.nodes.gpus, self.nodes
        now = [max(0, gpus - taken) for gpus, taken in zip(total, used, strict=True)]
        soon = [max(n, g - u + out) for n, g, u, out in zip(now, total, used, leaving, strict=True)]
        near_end = [max(s, g - u + o + e) for s, g, u, o, e in zip(soon, total, used, leaving, ending, strict=True)]
        return Supply(*(FreeIndex(count, table.types, table.usable) for count in (now, soon, near_end)))

    def _count_job(self, job: Job, parts: list[NodePart]) -> None:
        leaf = self.tree.leaf_of.get(job.queue)
        if leaf is None:
            return
        by_type = self.nodes.by_type(parts)
        unlisted = job.placed_gpus - sum(by_type.values())
        if not job.placement and job.state is not JobState.UNKNOWN:
            unlisted = job.gpus
        if unlisted:
            by_type[""] = unlisted
        self.ledger.held.add(leaf, job.user, by_type)
        self.ledger.expected.add(leaf, job.user, by_type)
        if job.state is JobState.COMPLETING or job.evicting_for is not None:
            return
        self.ledger.lasting.add(leaf, job.user, by_type)
        if job.state is JobState.RUNNING:
            sure = self.nodes.by_type(part for part in parts if self.nodes.known >> part[0] & 1)
            self.ledger.solid.add(leaf, job.user, sure)

    # --- what a job may ask for -------------------------------------------------------------------------------------

    def own_queue(self, leaf: int) -> QueueNode:
        """The queue whose guarantee is the job's own: for a parent's own jobs the parent."""
        node = self.tree.nodes[leaf]
        return self.tree.nodes[node.lineage[1]] if node.key.endswith(HIDDEN_LEAF) else node

    def flavors(self, job: Job) -> list[tuple[int, str | None]]:
        """Node sets the job may be placed on, preferred first."""
        return flavors(job.types, self.nodes, typed=self.tree.typed)

    def standing(self, leaf: int, job: Job) -> Standing:
        """How strong the job's case is now. Running jobs of its queue that have lower priority do not weaken it."""
        return min(
            (self.standing_on(leaf, job, gpu_type) for _, gpu_type in self.flavors(job)), default=Standing.BORROW
        )

    def standing_on(self, leaf: int, job: Job, gpu_type: str | None) -> Standing:
        """The same on GPUs of this type alone."""
        least = job.least_tasks * job.gpus_per_task
        own, nodes, lasting = self.own_queue(leaf), self.tree.nodes, self.ledger.lasting
        above = [lasting.guarantee_room(nodes[i], gpu_type) >= least for i in nodes[leaf].lineage[1:]]
        lower = self.hunt.lower_priority(leaf, job.priority) if job.priority > self.least_priority else 0
        if own.index == leaf and lasting.guarantee_room(own, gpu_type) + lower >= least:
            return Standing.FULL if all(above) else Standing.OWN
        return Standing.CLAIM if any(above) else Standing.BORROW

    def tasks_allowed(self, usage: Usage, leaf: int, job: Job, gpu_type: str | None) -> tuple[int, Reason]:
        """How many of the job's tasks every limit lets start, and the limit that allows the fewest."""
        room, reason = self.ledger.limit_room(usage, leaf, job.user, gpu_type)
        if not job.preemptible:
            own = usage.guarantee_room(self.own_queue(leaf), gpu_type)
            if own < room:
                room, reason = own, Reason.OVER_GUARANTEE
        return min(job.tasks, max(0, room) // job.gpus_per_task), reason

    def shape(self, leaf: int, job: Job, standing: Standing) -> tuple[object, ...]:
        """Jobs of the same shape share their fate within a round: what is free or allowed only shrinks."""
        return (
            leaf, job.user, job.gpus_per_task, job.tasks, job.min_tasks, job.tasks_per_node, job.types,
            job.preemptible, job.priority, standing,
        )  # fmt: skip

    def placement(self, parts: Iterable[NodePart]) -> Placement:
        """Node numbers -> names, in order of name."""
        return tuple(NodeGpus(node=self.nodes.names[index], gpus=gpus) for index, gpus in sorted(parts))
