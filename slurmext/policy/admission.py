"""What may be done for one pending job, from gentle to harsh: start it, wait, consolidate, reclaim, preempt.

Each step either settles the job (it starts, or GPUs are promised to it) or leaves everything as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from slurmext.model.job import Job, JobState, NodeGpus, Placement
from slurmext.model.plan import Evict, EvictAction, Move, QueueUsage, Reason, Release
from slurmext.model.snapshot import Fence, Snapshot
from slurmext.policy.hunt import Givers, Hunt, Need, Victims, freed_inside
from slurmext.policy.ledger import GpusByType, Ledger, Usage
from slurmext.policy.placement import flavors, place
from slurmext.policy.supply import FreeIndex, NodePart, NodeTable, Supply, mask_of
from slurmext.policy.tree import HIDDEN_LEAF, QueueNode, QueueTree, queue_tree
from slurmext.policy.victims import Taking, candidate, ends_within, lost_seconds

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


class Admission:
    """The state of one planning round and the steps that change it."""

    def __init__(self, snapshot: Snapshot, *, may_disrupt: Callable[[str], bool]) -> None:
        self.snapshot = snapshot
        self.may_disrupt = may_disrupt
        self.tree: QueueTree = queue_tree(snapshot)
        self.nodes = NodeTable(snapshot.nodes)
        self.ledger = Ledger(self.tree)
        self.pending = {job.id: job for job in snapshot.jobs if job.state is JobState.PENDING}
        self._promised: dict[str, list[NodePart]] = {}
        self.supply = self._count_everything()
        self.at_start = self.supply.now.copy()
        self.empty = FreeIndex(self.nodes.gpus, self.nodes.types, self.nodes.usable)
        found = (candidate(job, snapshot, self.tree, self.nodes) for job in snapshot.jobs)
        self.hunt = Hunt((c for c in found if c is not None), self.nodes, self.supply, self.ledger)
        self._givers: dict[tuple[int, tuple[int, ...], bool], Givers] = {}
        self._unfit: dict[tuple[object, ...], Reason | None] = {}
        self._evictions = 0
        self._hopeless: dict[tuple[object, ...], int] = {}
        self.release: list[Release] = []
        self.evict: list[Evict] = []
        self.move: list[Move] = []
        self.fence: list[Fence] = []
        self.reasons: dict[str, Reason] = {}
        self._growing: list[tuple[int, Job, list[NodePart], int]] = []
        self._promises: list[_Promise] = []

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
                if job.state is JobState.COMPLETING or (job.evicting_for is not None and job.evicting_for not in self.pending):
                    leaving[index] += gpus
                elif near:
                    ending[index] += gpus
            if job.evicting_for in self.pending and job.state is JobState.RUNNING:
                self._promised.setdefault(str(job.evicting_for), []).extend(parts)
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
        least = job.least_tasks * job.gpus_per_task
        lower = self.hunt.lower_priority(leaf, job.priority)
        own = self.own_queue(leaf)
        best, nodes, lasting = Standing.BORROW, self.tree.nodes, self.ledger.lasting
        for _, gpu_type in self.flavors(job):
            above = [lasting.guarantee_room(nodes[i], gpu_type) >= least for i in nodes[leaf].lineage[1:]]
            if own.index == leaf and lasting.guarantee_room(own, gpu_type) + lower >= least:
                if all(above):
                    return Standing.FULL
                best = min(best, Standing.OWN)
            elif any(above):
                best = min(best, Standing.CLAIM)
        return best

    def tasks_allowed(self, usage: Usage, leaf: int, job: Job, gpu_type: str | None) -> tuple[int, Reason]:
        """How many of the job's tasks every limit lets start, and the limit that allows the fewest."""
        room, reason = self.ledger.limit_room(usage, leaf, job.user, gpu_type)
        if not job.preemptible:
            own = usage.guarantee_room(self.own_queue(leaf), gpu_type)
            if own < room:
                room, reason = own, Reason.OVER_GUARANTEE
        return min(job.tasks, max(0, room) // job.gpus_per_task), reason

    # --- gentle -----------------------------------------------------------------------------------------------------

    def start(self, leaf: int, job: Job, standing: Standing, wanted: Placement = ()) -> Reason | None:
        """Start the job on GPUs that are idle now. Returns None when it starts, else the limit or NO_FREE_GPUS.

        `wanted` is tried first (a fence kept for it).
        """
        if job.gpus_per_task <= 0 or job.tasks <= 0:
            self.release.append(Release(job=job.id, placement=(), queue_usage=QueueUsage.GUARANTEED))
            return None
        shape = self._shape(leaf, job, standing)
        if shape in self._unfit and not wanted:
            return self._unfit[shape]
        why: Reason | None = None
        for mask, gpu_type in self.flavors(job):
            allowed, limit = self.tasks_allowed(self.ledger.held, leaf, job, gpu_type)
            if allowed < job.least_tasks:
                why = why or limit
                continue
            # An elastic job starts with its least: others come first, and what is left over at the end is its.
            parts, limit = self._idle_place(leaf, job, job.least_tasks, mask, wanted)
            if parts is not None:
                self._release(leaf, job, parts, mask)
                return None
            why = limit if why in {None, Reason.NO_FREE_GPUS} or limit is Reason.NO_FREE_GPUS else why
        why = why or Reason.NO_FREE_GPUS
        self._unfit[shape] = why
        return why

    def _idle_place(
        self, leaf: int, job: Job, allowed: int, mask: int, wanted: Placement
    ) -> tuple[list[NodePart] | None, Reason]:
        now, size = self.supply.now, job.gpus_per_task
        tasks = min(allowed, now.capacity(size, mask, job.tasks_per_node, allowed))
        kept = False
        while tasks >= job.least_tasks:
            parts = self._as_wanted(job, tasks, mask, wanted, now) or place(now, tasks, size, mask, job.tasks_per_node)
            if parts is None:
                break
            by_type = self.nodes.by_type(parts)
            if len(by_type) > 1 and self.tree.typed:
                limit = self.ledger.over_limit(self.ledger.held, leaf, job.user, by_type)
                if limit is None and not job.preemptible:
                    own = self.own_queue(leaf)
                    limit = None if self.ledger.held.within_guarantee(own, by_type) else Reason.OVER_GUARANTEE
                if limit is not None:
                    return None, limit
            if self.ledger.may_borrow(leaf, by_type, now.idle):
                return parts, Reason.NO_FREE_GPUS
            kept = True
            tasks -= 1
        return None, Reason.LENDING_LIMIT if kept else Reason.NO_FREE_GPUS

    def _as_wanted(self, job: Job, tasks: int, mask: int, wanted: Placement, free: FreeIndex) -> list[NodePart] | None:
        """The wanted placement, if it still holds for exactly this many tasks."""
        parts = self.nodes.parts(wanted)
        if not parts or len(parts) != len(wanted) or sum(gpus for _, gpus in parts) != tasks * job.gpus_per_task:
            return None
        fits = all(mask >> i & 1 and free.free[i] >= gpus and gpus % job.gpus_per_task == 0 for i, gpus in parts)
        return parts if fits and len({index for index, _ in parts}) == len(parts) else None

    def _shape(self, leaf: int, job: Job, standing: Standing) -> tuple[object, ...]:
        """Jobs of the same shape share their fate within a round: what is free or allowed only shrinks."""
        return (
            leaf, job.user, job.gpus_per_task, job.tasks, job.min_tasks, job.tasks_per_node, job.types,
            job.preemptible, job.priority, standing,
        )  # fmt: skip

    def _release(self, leaf: int, job: Job, parts: list[NodePart], mask: int) -> None:
        by_type = self.nodes.by_type(parts)
        own = self.ledger.held.within_guarantee(self.own_queue(leaf), by_type)
        self.supply.take_now(parts)
        self.ledger.start(leaf, job.user, by_type)
        usage = QueueUsage.GUARANTEED if own else QueueUsage.BORROWED
        self.release.append(Release(job=job.id, placement=self.placement(parts), queue_usage=usage))
        if job.least_tasks < job.tasks:
            self._growing.append((leaf, job, parts, mask))

    def grow(self) -> None:
        """Give elastic jobs that start now what nobody else could use."""
        grown: dict[str, Release] = {}
        for leaf, job, parts, mask in self._growing:
            if self.supply.now.capacity(job.gpus_per_task, mask, job.tasks_per_node, 1) == 0:
                continue
            by_type = self.nodes.by_type(parts)
            self.supply.give_back(parts)
            self.ledger.stop(leaf, job.user, by_type)
            gpu_type = next(iter(by_type)) if self.tree.typed else None
            allowed, _ = self.tasks_allowed(self.ledger.held, leaf, job, gpu_type)
            more, _ = self._idle_place(leaf, job, allowed, mask, ())
            if more is not None and sum(gpus for _, gpus in more) > sum(gpus for _, gpus in parts):
                own = self.ledger.held.within_guarantee(self.own_queue(leaf), self.nodes.by_type(more))
                usage = QueueUsage.GUARANTEED if own else QueueUsage.BORROWED
                grown[job.id] = Release(job=job.id, placement=self.placement(more), queue_usage=usage)
                parts = more  # noqa: PLW2901
            self.supply.take_now(parts)
            self.ledger.start(leaf, job.user, self.nodes.by_type(parts))
        self.release = [grown.get(release.job, release) for release in self.release]

    def promised(self, job: Job) -> bool:
        """Credit what is already being evicted for the job; True when there is any."""
        parts = self._promised.pop(job.id, [])
        self.supply.leaving(parts, self.nodes.usable)
        self.hunt.changed(index for index, _ in parts)
        return bool(parts)

    def wait(self, leaf: int, job: Job, *, evicting: bool, wanted: Placement = ()) -> bool:
        """Promise the job GPUs that come free without anybody being told to go now."""
        levels = [self.supply.soon]
        if self.snapshot.settings.near_end_s > 0:
            levels.append(self.supply.near)
        for free in levels:
            for mask, gpu_type in self.flavors(job):
                allowed, _ = self.tasks_allowed(self.ledger.lasting, leaf, job, gpu_type)
                size = job.gpus_per_task
                tasks = job.least_tasks
                if allowed < tasks:
                    continue
                asked = self._as_wanted(job, tasks, mask, wanted, free)
                parts = asked or place(free, tasks, size, mask, job.tasks_per_node)
                if parts is None:
                    continue
                near = free is self.supply.near
                idle = self.supply.take_near(parts) if near else self.supply.take_soon(parts)
                self.ledger.start(leaf, job.user, self.nodes.by_type(parts))
                # What a running job holds until its near end cannot be fenced; only what is idle needs keeping then.
                if near:
                    self._keep(job, idle)
                else:
                    self._promises.append(
                        _Promise(leaf=leaf, job=job, need=self._need(job, mask, ()), parts=parts, idle=idle)
                    )
                self.reasons[job.id] = Reason.RECLAIMING if evicting else Reason.WAITING_NEAR_END
                return True
        return False

    # --- harsh ------------------------------------------------------------------------------------------------------

    def delayed(self, leaf: int, job: Job) -> bool:
        """True while the job's queue makes it wait before anyone is disturbed for it."""
        return self.snapshot.now_s - job.submitted_s < self.tree.nodes[leaf].preemption_delay_s

    def reclaim(self, leaf: int, job: Job) -> bool:
        """Take back for the job what queues beside its own, at some level, hold above their guarantee."""
        least = job.least_tasks * job.gpus_per_task
        for mask, gpu_type in self.flavors(job):
            if gpu_type is None and self.tree.typed:
                continue
            gpus = {gpu_type or "": least}
            claims = self.ledger.claims(leaf, gpus)
            inside = self._shortage(leaf, job, gpus)
            if not claims or any(queue == leaf for queue, _ in inside):
                continue
            if not job.preemptible and self.own_queue(leaf).index not in claims:
                continue
            for mixed in (False, True):
                if mixed and (leaf not in claims or len(claims) == len(self.tree.nodes[leaf].lineage)):
                    continue
                need = self._need(job, mask, inside + (self._uncovered(leaf, claims, gpus) if mixed else ()))
                key = ("reclaim", self._shape(leaf, job, Standing.OWN)[:-1], claims, mixed, gpu_type)
                givers = self._reclaim_givers(leaf, claims, mixed=mixed)
                accept = self._reclaim_check(leaf, job, gpus, claims, plain=not inside and not mixed)
                if self._evict(leaf, job, need, givers, Reason.RECLAIM_GUARANTEE, key, accept):
                    return True
        return False

    def preempt(self, leaf: int, job: Job) -> bool:
        """Take the place of jobs of lower priority in the same queue."""
        least = job.least_tasks * job.gpus_per_task
        if not self.hunt.lower_priority(leaf, job.priority):
            return False
        for mask, gpu_type in self.flavors(job):
            if gpu_type is None and self.tree.typed:
                continue
            gpus = {gpu_type or "": least}
            short = max((missing for _, missing in self._shortage(leaf, job, gpus)), default=0)
            if not self.ledger.may_borrow(leaf, gpus, self.supply.now.idle):
                short = least
            need = self._need(job, mask, ((leaf, short),) if short > 0 else ())
            givers = Givers(key=("preempt", leaf, job.priority), levels={leaf: ()}, below_priority=job.priority)
            key = ("preempt", self._shape(leaf, job, Standing.OWN)[:-1], gpu_type)
            accept = self._preempt_check(leaf, job, gpus, plain=short <= 0)
            if self._evict(leaf, job, need, givers, Reason.PREEMPT_PRIORITY, key, accept):
                return True
        return False

    def _need(self, job: Job, mask: int, inside: tuple[tuple[int, int], ...]) -> Need:
        return Need(
            tasks=job.least_tasks,
            size=job.gpus_per_task,
            mask=mask,
            per_node=job.tasks_per_node,
            inside=inside,
        )

    def _shortage(self, leaf: int, job: Job, gpus: GpusByType) -> tuple[tuple[int, int], ...]:
        """(queue, GPUs) that must come free inside a queue before it may hold the job as well."""
        total, found = sum(gpus.values()), list[tuple[int, int]]()
        lasting = self.ledger.lasting
        for index in self.tree.nodes[leaf].lineage:
            node = self.tree.nodes[index]
            missing = 0
            if node.max is not None:
                missing = lasting.total[index] + total - node.max
            for gpu_type, count in gpus.items():
                if gpu_type in node.type_max:
                    missing = max(missing, lasting.of_type(index, gpu_type) + count - node.type_max[gpu_type])
                if not node.may_borrow:
                    missing = max(missing, count - lasting.guarantee_room(node, gpu_type))
            if missing > 0:
                found.append((index, missing))
        if not job.preemptible:
            own = self.own_queue(leaf)
            missing = total - min(lasting.guarantee_room(own, gpu_type) for gpu_type in gpus)
            if missing > 0:
                found.append((leaf, missing))
        return tuple(found)

    def _uncovered(self, leaf: int, claims: tuple[int, ...], gpus: GpusByType) -> tuple[tuple[int, int], ...]:
        """(queue, GPUs) its own members must give before the queue may reclaim the rest from outside."""
        total = sum(gpus.values())
        return tuple(
            (index, total - min(self.ledger.expected.guarantee_room(self.tree.nodes[index], t) for t in gpus))
            for index in self.tree.nodes[leaf].lineage
            if index not in claims
        )

    def _reclaim_givers(self, leaf: int, claims: tuple[int, ...], *, mixed: bool) -> Givers:
        key = (leaf, claims, mixed)
        found = self._givers.get(key)
        if found is None:
            levels: dict[int, tuple[int, ...]] = {}
            last: set[int] = set()
            for other in self.hunt.of_leaf:
                if other == leaf:
                    continue
                ancestor = self.tree.common_ancestor(leaf, other)
                if self.tree.below(leaf, ancestor)[-1] not in claims:
                    if not mixed:
                        continue
                    last.add(other)
                levels[other] = self.tree.below(other, ancestor)
            found = self._givers[key] = Givers(key=("reclaim", *key), levels=levels, last=frozenset(last))
        return found

    def _reclaim_check(
        self, leaf: int, job: Job, gpus: GpusByType, claims: tuple[int, ...], *, plain: bool
    ) -> Callable[[Victims], bool]:
        """The taker's side: no limit broken, and nothing from outside a queue that is over its guarantee."""

        def accept(victims: Victims) -> bool:
            outside = [
                index
                for index in self.tree.nodes[leaf].lineage
                if index not in claims and any(index not in t.victim.lineage for t in victims.values())
            ]
            expected, lasting = self.ledger.expected, self.ledger.lasting
            without = _Without(victims, expected, lasting)
            try:
                covered = all(expected.within_guarantee(self.tree.nodes[index], gpus) for index in outside)
                return covered and self.ledger.over_limit(lasting, leaf, job.user, gpus) is None
            finally:
                without.undo()

        def at_once(victims: Victims) -> bool:
            del victims
            return True

        if plain and self.ledger.over_limit(self.ledger.lasting, leaf, job.user, gpus) is None:
            return at_once
        return accept

    def _preempt_check(self, leaf: int, job: Job, gpus: GpusByType, *, plain: bool) -> Callable[[Victims], bool]:
        def accept(victims: Victims) -> bool:
            lasting = self.ledger.lasting
            without = _Without(victims, lasting)
            try:
                own = job.preemptible or lasting.within_guarantee(self.own_queue(leaf), gpus)
                return own and self.ledger.over_limit(lasting, leaf, job.user, gpus) is None
            finally:
                without.undo()

        def at_once(victims: Victims) -> bool:
            del victims
            return True

        if plain and job.preemptible and self.ledger.over_limit(self.ledger.lasting, leaf, job.user, gpus) is None:
            return at_once
        return accept

    def _evict(
        self,
        leaf: int,
        job: Job,
        need: Need,
        givers: Givers,
        reason: Reason,
        key: tuple[object, ...],
        accept: Callable[[Victims], bool],
    ) -> bool:
        # A search that failed stays failed until somebody else was evicted: only then more comes free.
        if self._hopeless.get(key) == self._evictions:
            return False
        victims = self.hunt.find(need, givers, accept) if givers.levels else None
        if not victims:
            self._hopeless[key] = self._evictions
            return False
        self.hunt.take(victims, givers)
        parts = self._promised_place(self.supply.soon, need, victims)
        assert parts is not None, "victims were checked to make room"  # noqa: S101
        idle = self.supply.take_soon(parts)
        self.ledger.start(leaf, job.user, self.nodes.by_type(parts))
        self._promises.append(
            _Promise(
                leaf=leaf, job=job, need=need, reason=reason, accept=accept, victims=victims, parts=parts, idle=idle
            )
        )
        self._evictions += len(victims)
        self.reasons[job.id] = Reason.RECLAIMING if reason is Reason.RECLAIM_GUARANTEE else Reason.PREEMPTING
        return True

    def _promised_place(self, free: FreeIndex, need: Need, victims: Victims) -> list[NodePart] | None:
        """Where the beneficiary goes: where its own victims leave, so that others' promises stay independent."""
        own = mask_of({index for taking in victims.values() for index, _ in taking.parts}) & need.mask
        return place(free, need.tasks, need.size, own, need.per_node) or place(
            free, need.tasks, need.size, need.mask, need.per_node
        )

    def drop_spare_victims(self) -> bool:
        """Let off victims whose beneficiary fits into what later victims leave over. True when there were any.

        Whoever was asked first may have told a small job to go before somebody else needed a whole gang to leave.
        """
        if all(later <= now for later, now in zip(self.supply.soon.free, self.supply.now.free, strict=True)):
            return False
        dropped = [self._let_off(promise) for promise in self._promises if promise.victims]
        if any(dropped):
            self._unfit.clear()
            self._hopeless.clear()
        return any(dropped)

    def _let_off(self, promise: _Promise) -> bool:
        before = promise.victims
        for job_id, taking in sorted(before.items(), key=lambda item: (item[1].cost, item[0]), reverse=True):
            smaller = {other: kept for other, kept in promise.victims.items() if other != job_id}
            if self._does_without(promise, taking, None, smaller):
                continue
            while not taking.whole and taking.tasks > 1:
                fewer = self.hunt.one_task_less(taking)
                if not self._does_without(promise, taking, fewer, {**smaller, job_id: fewer}):
                    break
                taking = fewer  # noqa: PLW2901
        return promise.victims is not before

    def _does_without(self, promise: _Promise, taking: Taking, instead: Taking | None, smaller: Victims) -> bool:
        """Let `taking` off (or take `instead`) if everybody who was promised GPUs still gets them; else False."""
        # Where GPUs are kept idle a victim may be needed for the count alone, which `accept` does not see.
        if self.tree.keeps and any(freed_inside(smaller, queue) < gpus for queue, gpus in promise.need.inside):
            return False
        moving = [promise, *(other for other in self._promises if not other.victims)]
        scratch = self.supply.soon.copy()
        for other in moving:
            scratch.add(other.parts)
        back = dict(taking.parts)
        for index, gpus in () if instead is None else instead.parts:
            back[index] = back.get(index, 0) - gpus
        back = {index: gpus for index, gpus in back.items() if self.nodes.usable >> index & 1}
        if any(scratch.free[index] < gpus for index, gpus in back.items()):
            return False
        scratch.add(back.items(), sign=-1)
        places: list[list[NodePart]] = []
        for other in moving:
            parts = self._promised_place(scratch, other.need, smaller if other is promise else {})
            if parts is None:
                return False
            places.append(parts)
            scratch.add(parts, sign=-1)
        by_type = self.nodes.by_type(promise.parts)
        self.ledger.stop(promise.leaf, promise.job.user, by_type)
        for other in moving:
            self.supply.break_promise(other.parts, other.idle)
        self.hunt.let_off(taking)
        if instead is not None:
            self.hunt.take_back(instead)
        for kept in smaller.values():  # `accept` takes the victims away itself
            self.ledger.stay(kept.victim.leaf, kept.victim.job.user, kept.by_type)
        accepted = promise.accept(smaller)
        for kept in smaller.values():
            self.ledger.leave(kept.victim.leaf, kept.victim.job.user, kept.by_type)
        if accepted:
            promise.victims = smaller
        else:
            if instead is not None:
                self.hunt.let_off(instead)
            self.hunt.take_back(taking)
        self.ledger.start(promise.leaf, promise.job.user, by_type)
        for other, parts in zip(moving, places, strict=True):
            other.parts = parts if accepted else other.parts
            other.idle = self.supply.take_soon(other.parts)
        return accepted

    def write_promises(self) -> None:
        """Put evictions and their fences into the plan."""
        for promise in self._promises:
            self._keep(promise.job, promise.parts)
            if not promise.victims and promise.reason is not Reason.WAITING_NEAR_END:
                self.reasons[promise.job.id] = Reason.WAITING_NEAR_END
            for job_id, taking in sorted(promise.victims.items()):
                victim = taking.victim.job
                self.evict.append(
                    Evict(
                        job=job_id,
                        action=EvictAction.REQUEUE if taking.whole else EvictAction.SHRINK,
                        beneficiary=promise.job.id,
                        reason=promise.reason,
                        tasks=taking.tasks,
                        lost_gpu_s=lost_seconds(victim, self.snapshot.now_s) * taking.gpus,
                        from_queue=victim.queue,
                        to_queue=promise.job.queue,
                    )
                )

    def waits_for_gpus(self) -> set[str]:
        """Jobs that GPUs are promised to."""
        return {promise.job.id for promise in self._promises} | {fence.beneficiary for fence in self.fence} | {
            job_id for job_id, reason in self.reasons.items() if reason is Reason.WAITING_NEAR_END
        }

    def _keep(self, job: Job, parts: list[NodePart]) -> None:
        if parts:
            self.fence.append(Fence(beneficiary=job.id, placement=self.placement(parts)))

    def placement(self, parts: Iterable[NodePart]) -> Placement:
        """Node numbers -> names, in order of name."""
        return tuple(NodeGpus(node=self.nodes.names[index], gpus=gpus) for index, gpus in sorted(parts))


@dataclass(slots=True, kw_only=True)
class _Promise:
    """GPUs promised to a beneficiary, and who must leave for it. `idle` is the share of them that is free now."""

    leaf: int
    job: Job
    need: Need
    parts: list[NodePart]
    idle: list[NodePart]
    reason: Reason = Reason.WAITING_NEAR_END
    accept: Callable[[Victims], bool] = bool
    victims: Victims = field(default_factory=Victims)


class _Without:
    """Counts usage as if the victims were gone, until undone."""

    def __init__(self, victims: Victims, *usages: Usage) -> None:
        self._victims, self._usages = victims, usages
        self._add(-1)

    def undo(self) -> None:
        self._add(1)

    def _add(self, sign: int) -> None:
        for taking in self._victims.values():
            for usage in self._usages:
                usage.add(taking.victim.leaf, taking.victim.job.user, taking.by_type, sign=sign)


def standing_fences(snapshot: Snapshot, pending: Mapping[str, Job]) -> dict[str, Placement]:
    """Placements still kept for jobs that are still pending; whoever is not gave up or started."""
    return {fence.beneficiary: fence.placement for fence in snapshot.fences if fence.beneficiary in pending}
