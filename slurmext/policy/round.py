"""One planning round: the world counted once, and what a pending job may ask for in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

from slurmext.model.job import Job, JobState, NodeGpus, Placement
from slurmext.model.plan import Evict, Move, Note, Reason, Release
from slurmext.model.snapshot import Fence
from slurmext.policy.counting import Count
from slurmext.policy.drain import Drain, capacity_of
from slurmext.policy.headroom import headroom
from slurmext.policy.herd import Need, Victims
from slurmext.policy.hunt import Hunt
from slurmext.policy.ledger import Usage
from slurmext.policy.placement import flavors
from slurmext.policy.supply import FreeIndex, NodePart, Supply
from slurmext.policy.tree import QueueNode
from slurmext.policy.victims import candidate, ends_within


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

    def __init__(self, count: Count, *, barred: Collection[str] | None) -> None:
        """`count` is not changed. Nobody is disturbed for the jobs in `barred`; None: for no job at all."""
        self.snapshot = count.snapshot
        self.barred = barred
        self.count = count
        self.tree, self.nodes, self.pending = count.tree, count.nodes, count.pending
        self.ledger = count.ledger()
        self.ledger.drain = self._drain()
        self.ledger.headroom = headroom(self.snapshot.settings, self.tree, self.snapshot.jobs)
        self.owed: set[str] = set()
        """Jobs that were promised GPUs by an earlier plan."""
        self.notes: list[Note] = []
        self.evicted_for: dict[str, list[NodePart]] = {}
        self.supply = self._supply()
        self.at_start = self.supply.now.copy()
        self.empty = count.empty
        self.least_priority = count.least_priority
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

    def may_disrupt(self, job: Job) -> bool:
        """Whether anybody may be disturbed for the job."""
        return self.barred is not None and job.id not in self.barred

    def _drain(self) -> Drain | None:
        what = self.count.coming if self.tree.changes else None
        if what is None:
            return None
        drain = Drain(what, self.snapshot.now_s, capacity_of(self.nodes))
        drain.count(self.count.running_past)
        return drain

    def drained(self, leaf: int, job: Job, gpus: Mapping[str, int]) -> bool:
        """Whether the job would be in the way of a change of the calendar and its queue starts no such job.

        What was promised before is kept: victims may have left for it. A job that may not be preempted is of no use to
        tell: nobody could take its GPUs back then.
        """
        drain = self.ledger.drain
        if drain is None or job.id in self.owed or (self.tree.nodes[leaf].tells and job.preemptible):
            return False
        return drain.in_the_way(leaf, job, gpus) is not None

    def _supply(self) -> Supply:
        used, table = self.count.used, self.nodes
        leaving = self.count.completing.copy()
        ending = [0] * len(used)
        for job in self.count.evicting.values():
            parts = table.parts(job.placement)
            if job.state is not JobState.COMPLETING and job.evicting_for not in self.pending:
                for index, gpus in parts:
                    leaving[index] += gpus
            if job.evicting_for in self.pending and job.state is JobState.RUNNING:
                self.evicted_for.setdefault(str(job.evicting_for), []).extend(parts)
        settings, now_s = self.snapshot.settings, self.snapshot.now_s
        for job in self.snapshot.jobs if settings.near_end_s > 0 else ():
            if (
                job.state is JobState.RUNNING
                and job.evicting_for is None
                and ends_within(job, now_s, settings.near_end_s)
            ):
                for index, gpus in table.parts(job.placement):
                    ending[index] += gpus
        total = table.gpus
        now = [max(0, gpus - taken) for gpus, taken in zip(total, used, strict=True)]
        soon = [max(n, g - u + out) for n, g, u, out in zip(now, total, used, leaving, strict=True)]
        near_end = [max(s, g - u + o + e) for s, g, u, o, e in zip(soon, total, used, leaving, ending, strict=True)]
        return Supply(*(FreeIndex(count, table.types, table.usable) for count in (now, soon, near_end)))

    # --- what a job may ask for -------------------------------------------------------------------------------------

    def own_queue(self, leaf: int) -> QueueNode:
        """The queue whose guarantee is the job's own: for a parent's own jobs the parent."""
        return self.tree.own(leaf)

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
        room, reason = self.ledger.limit_room(usage, leaf, job, gpu_type)
        if not job.preemptible:
            own = usage.guarantee_room(self.own_queue(leaf), gpu_type)
            if own < room:
                room, reason = own, Reason.OVER_GUARANTEE
        return min(job.tasks, max(0, room) // job.gpus_per_task), reason

    def shape(self, leaf: int, job: Job, standing: Standing) -> tuple[object, ...]:
        """Jobs of the same shape share their fate within a round: what is free or allowed only shrinks."""
        return (
            leaf, job.user, job.groups, job.gpus_per_task, job.tasks, job.min_tasks, job.tasks_per_node, job.types,
            job.preemptible, job.priority, job.groups, job.time_limit_s if self.tree.changes else None, standing,
        )  # fmt: skip

    def placement(self, parts: Iterable[NodePart]) -> Placement:
        """Node numbers -> names, in order of name."""
        return tuple(NodeGpus(node=self.nodes.names[index], gpus=gpus) for index, gpus in sorted(parts))
