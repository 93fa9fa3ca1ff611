"""Quotas for slices: those of the queues, in parts of a GPU, with the same ledger and the same fair order.

A slice counts the larger of its compute and its memory share. Whole-GPU jobs count in the same books, so a queue's max
and its guarantee mean the same whatever its jobs ask for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from slurmext.model.job import HOLDING, Job, JobState, NodeGpus
from slurmext.model.node import Node, NodeState
from slurmext.model.plan import QueueUsage, Reason
from slurmext.model.queue import Queue, TypeQuota, UserLimit
from slurmext.model.slicing import SliceJob, SliceSnapshot
from slurmext.model.snapshot import Settings, Snapshot
from slurmext.policy.counting import Count
from slurmext.policy.drain import Drain, capacity_of
from slurmext.policy.order import Tournament, by_borrowing, by_guarantee
from slurmext.policy.round import Standing
from slurmext.policy.slicing.kinds import GPU_PARTS
from slurmext.policy.tree import QueueNode
from slurmext.policy.victims import move_cost, spared

PartsByType = Mapping[str, int]
"""Parts of GPUs per GPU type."""


def _parts(gpus: int | None) -> int | None:
    return None if gpus is None else gpus * GPU_PARTS


def _limits(limits: Mapping[str, UserLimit]) -> dict[str, UserLimit]:
    return {who: UserLimit(max=_parts(limit.max)) for who, limit in limits.items()}


def _types(quotas: Mapping[str, TypeQuota]) -> dict[str, TypeQuota]:
    return {
        gpu_type: TypeQuota(
            guaranteed=quota.guaranteed * GPU_PARTS, reserved=quota.reserved * GPU_PARTS, max=_parts(quota.max)
        )
        for gpu_type, quota in quotas.items()
    }


def queue_in_parts(queue: Queue) -> Queue:
    """The queue with all its numbers in parts of a GPU."""
    changes = tuple(
        replace(
            change,
            guaranteed=_parts(change.guaranteed),
            reserved=change.reserved * GPU_PARTS,
            max=_parts(change.max),
            lending_limit=_parts(change.lending_limit),
            by_type=_types(change.by_type),
        )
        for change in queue.changes
    )
    return replace(
        queue,
        guaranteed=_parts(queue.guaranteed),
        reserved=queue.reserved * GPU_PARTS,
        max=_parts(queue.max),
        lending_limit=_parts(queue.lending_limit),
        by_type=_types(queue.by_type),
        users=_limits(queue.users),
        groups=_limits(queue.groups),
        each_user_max=_parts(queue.each_user_max),
        changes=changes,
    )


def whole_in_parts(job: Job) -> Job:
    """A whole-GPU job in parts of a GPU."""
    placement = tuple(NodeGpus(node=part.node, gpus=part.gpus * GPU_PARTS) for part in job.placement)
    return replace(job, gpus_per_task=job.gpus_per_task * GPU_PARTS, placement=placement)


def slice_in_parts(job: SliceJob, parts: int, on_nodes: Mapping[str, int]) -> Job:
    """A job of slices as the quotas see it: one task of `parts`. One that has its reservation is as good as running."""
    state = JobState.RUNNING if job.state is JobState.PENDING and job.places else job.state
    return Job(
        id=job.id,
        queue=job.queue,
        state=state,
        user=job.user,
        groups=job.groups,
        gpus_per_task=max(1, parts),
        priority=job.priority,
        preemptible=job.preemptible,
        requeue=job.requeue,
        submitted_s=job.submitted_s,
        started_s=job.started_s,
        time_limit_s=job.time_limit_s,
        checkpoint_s=job.checkpoint_s,
        preempted=job.preempted,
        placement=tuple(NodeGpus(node=node, gpus=gpus) for node, gpus in sorted(on_nodes.items())),
        eligible_s=job.eligible_s,
        blocked=job.blocked,
        evicting_for=job.evicting_for,
    )


class Quotas:
    """What queues use and may add, while slices are planned."""

    def __init__(self, snapshot: SliceSnapshot, jobs: Sequence[Job], idle: Mapping[str, int]) -> None:
        """`jobs` are all, in parts; `idle` is what of the GPUs is idle, by type, in parts."""
        self._past = {path: gpus * GPU_PARTS for path, gpus in snapshot.past_gpus.items()}
        settings = snapshot.settings
        self._past_factor = settings.past_factor
        self._settings = Settings(
            requeue_delay_s=settings.move_cost_s,
            preemption_budget=settings.preemption_budget,
            near_end_s=settings.near_end_s,
        )
        self._now_s = snapshot.now_s
        counted = Snapshot(
            now_s=snapshot.now_s,
            nodes=_nodes(snapshot),
            queues=tuple(queue_in_parts(queue) for queue in snapshot.queues),
            jobs=tuple(jobs),
        )
        self.count = Count(counted)
        self.tree = self.count.tree
        self.ledger = self.count.ledger()
        self.idle: dict[str | None, int] = {None: sum(idle.values()), **idle}
        if self.tree.changes and (what := self.count.coming) is not None:
            self.ledger.drain = Drain(what, snapshot.now_s, capacity_of(self.count.nodes))
            self.ledger.drain.count(self.count.running_past)

    def by_type(self, job: Job) -> dict[str, int]:
        """What a whole-GPU job holds, in parts by GPU type."""
        nodes = self.count.nodes
        return nodes.by_type(nodes.parts(job.placement))

    def leaf(self, job: Job) -> int | None:
        """The leaf of the job's queue; None when the policy has no such queue."""
        return self.tree.leaf_of.get(job.queue)

    def standing(self, leaf: int, job: Job, types: Sequence[str | None]) -> Standing:
        """How strong the job's case is now, on the best of these types."""
        return min((self.standing_on(leaf, job, gpu_type) for gpu_type in types), default=Standing.BORROW)

    def standing_on(self, leaf: int, job: Job, gpu_type: str | None) -> Standing:
        own, nodes, lasting = self.tree.own(leaf), self.tree.nodes, self.ledger.lasting
        above = [lasting.guarantee_room(nodes[i], gpu_type) >= job.gpus for i in nodes[leaf].lineage[1:]]
        if own.index == leaf and lasting.guarantee_room(own, gpu_type) >= job.gpus:
            return Standing.FULL if all(above) else Standing.OWN
        return Standing.CLAIM if any(above) else Standing.BORROW

    def refused(self, leaf: int, job: Job, gpus: PartsByType) -> Reason | None:
        """The limit that keeps the job from so much; None when it may have it."""
        ledger = self.ledger
        over = ledger.over_limit(ledger.held, leaf, job, gpus)
        if over is not None:
            return over
        if not job.preemptible and not ledger.held.within_guarantee(self.tree.own(leaf), gpus):
            return Reason.OVER_GUARANTEE
        node = self.tree.nodes[leaf]
        told = node.tells and job.preemptible
        if ledger.drain is not None and not told and ledger.drain.in_the_way(leaf, job, gpus) is not None:
            return Reason.PRE_DRAIN
        return None if ledger.may_borrow(leaf, gpus, self.idle) else Reason.LENDING_LIMIT

    def start(self, leaf: int, job: Job, gpus: PartsByType) -> QueueUsage:
        """The job gets so much."""
        own = self.ledger.held.within_guarantee(self.tree.own(leaf), gpus)
        for gpu_type, parts in gpus.items():
            self.idle[gpu_type] = self.idle.get(gpu_type, 0) - parts
            self.idle[None] -= parts
        self.ledger.start(leaf, job, gpus)
        return QueueUsage.GUARANTEED if own else QueueUsage.BORROWED

    def promise(self, leaf: int, job: Job, gpus: PartsByType) -> None:
        """The job will get so much when others have left."""
        self.ledger.start(leaf, job, gpus)

    def take_back(self, leaf: int, job: Job, gpus: PartsByType) -> None:
        """Undo `promise`."""
        self.ledger.stop(leaf, job, gpus)

    # --- who may be evicted -----------------------------------------------------------------------------------------

    def claims(self, leaf: int, gpus: PartsByType) -> tuple[int, ...]:
        """Levels of the leaf's lineage at which so much is within the guarantee."""
        return self.ledger.claims(leaf, gpus)

    def owes(self, victim: Job, leaf: int, claims: Sequence[int], gpus: PartsByType) -> bool:
        """Whether the victim's queue holds `gpus` above its guarantee, at the level where the leaf may claim them."""
        other = self.tree.leaf_of.get(victim.queue)
        if other is None or other == leaf:
            return False
        ancestor = self.tree.common_ancestor(leaf, other)
        mine = self.tree.below(leaf, ancestor)
        if not mine or mine[-1] not in claims:
            return False
        return all(self._can_give(self.tree.nodes[index], gpus) for index in self.tree.below(other, ancestor))

    def _can_give(self, node: QueueNode, gpus: PartsByType) -> bool:
        return self.ledger.solid.can_give(node, gpus)

    def leave(self, victim: Job, gpus: PartsByType) -> None:
        """The victim is told to go."""
        leaf = self.tree.leaf_of.get(victim.queue)
        if leaf is not None:
            self.ledger.leave(leaf, victim, gpus)

    def stay(self, victim: Job, gpus: PartsByType) -> None:
        """Undo `leave`."""
        leaf = self.tree.leaf_of.get(victim.queue)
        if leaf is not None:
            self.ledger.stay(leaf, victim, gpus)

    def leave_all(self, victims: Sequence[tuple[Job, PartsByType]], leaf: int, claims: Sequence[int]) -> Job | None:
        """Tell all victims to go; the first whose queue cannot give its GPUs too, and then nobody is told."""
        for number, (victim, gpus) in enumerate(victims):
            if not self.owes(victim, leaf, claims, gpus):
                for undone, given in victims[:number]:
                    self.stay(undone, given)
                return victim
            self.leave(victim, gpus)
        return None

    def cost(self, victim: Job) -> float:
        """GPU seconds that a requeue of the running job costs."""
        return move_cost(victim, self._settings, self._now_s) / GPU_PARTS

    def spared(self, victim: Job) -> bool:
        """Whether a rule keeps the running job from being evicted."""
        leaf = self.tree.leaf_of.get(victim.queue)
        if leaf is None:
            return True
        return spared(victim, self._settings, self._now_s, self.tree.nodes[leaf].min_runtime_s) is not None

    def delayed(self, leaf: int, job: Job) -> bool:
        """True while the job's queue makes it wait before anybody is disturbed for it."""
        return self._now_s - job.submitted_s < self.tree.nodes[leaf].preemption_delay_s

    # --- in which order ---------------------------------------------------------------------------------------------

    def in_order(self, types_of: Callable[[str], Sequence[str | None]], ask: Ask, first: Sequence[Job] = ()) -> None:
        """Ask every waiting job once, as whole-GPU jobs are asked: guarantees first, then towards the fair share.

        `ask` says whether something was given to the job; it may be asked again for those in `first`, who come before
        all others of the same standing. `types_of` has the GPU types a job could use.
        """
        waiting = {leaf: self.count.in_order(leaf) for leaf in sorted(self.count.waiting)}
        rows = {leaf: [[job] for row in found for job in row] for leaf, found in waiting.items()}
        lasting = self.ledger.lasting
        borrowing = by_borrowing(lasting, self._past, self._past_factor)
        for standing in Standing:
            rank = by_guarantee(lasting) if standing in {Standing.FULL, Standing.OWN} else borrowing
            for job in first:
                leaf = self.leaf(job)
                if leaf is not None and self.standing(leaf, job, types_of(job.id)) is standing:
                    ask(leaf, job, standing)
            tournament = Tournament(self.tree, rows, rank)
            weaker: dict[int, list[list[Job]]] = {}
            while (found := tournament.next()) is not None:
                leaf, job = found
                if standing is not Standing.BORROW and self.standing(leaf, job, types_of(job.id)) > standing:
                    weaker.setdefault(leaf, []).append([job])
                elif ask(leaf, job, standing):
                    tournament.moved(leaf)
            rows = weaker


Ask = Callable[[int, Job, Standing], bool]
"""Ask for a job of a leaf with this standing; True when it got something."""


def _nodes(snapshot: SliceSnapshot) -> tuple[Node, ...]:
    """The nodes with their GPUs in parts; of several types the most frequent is the node's."""
    counted: dict[str, Counter[str]] = {}
    for gpu in snapshot.gpus:
        counted.setdefault(gpu.node, Counter())[gpu.gpu_type] += 1
    return tuple(_node(node.name, counted.get(node.name), node.state) for node in snapshot.nodes)


def _node(name: str, types: Counter[str] | None, state: NodeState) -> Node:
    gpu_type = min(types, key=lambda kind: (-types[kind], kind)) if types else "gpu"
    gpus = sum(types.values()) * GPU_PARTS if types else 0
    return Node(name=name, gpus=gpus, gpu_type=gpu_type, state=state)


def holding(jobs: Sequence[Job]) -> Iterator[Job]:
    """Those of the whole-GPU jobs that hold GPUs."""
    return (job for job in jobs if job.state in HOLDING)
