"""The harsh steps: reclaim from queues that borrow, preempt by priority within a queue."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from slurmext.model.job import Job
from slurmext.model.plan import Reason
from slurmext.policy.consolidate import Consolidation
from slurmext.policy.counting import Count
from slurmext.policy.herd import Givers, Need, Victims
from slurmext.policy.ledger import GpusByType, Usage
from slurmext.policy.round import Promise, Standing


class Eviction(Consolidation):
    """Reclaim and preempt."""

    def __init__(self, count: Count, *, barred: Collection[str] | None) -> None:
        super().__init__(count, barred=barred)
        self._givers: dict[tuple[int, tuple[int, ...], bool], Givers] = {}

    def delayed(self, leaf: int, job: Job) -> bool:
        """True while the job's queue makes it wait before anyone is disturbed for it."""
        return self.snapshot.now_s - job.submitted_s < self.tree.nodes[leaf].preemption_delay_s

    def all_alike(self, leaf: int) -> bool:
        """Whether jobs of the leaf that ask for the same thing are answered the same, whoever they are."""
        return not self.barred and not self.tree.nodes[leaf].preemption_delay_s

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
                need = self.need(job, mask, inside + (self._uncovered(leaf, claims, gpus) if mixed else ()))
                key = ("reclaim", self.shape(leaf, job, Standing.OWN)[:-1], claims, mixed, gpu_type)
                givers = self._reclaim_givers(leaf, claims, mixed=mixed)
                accept = self._reclaim_check(leaf, job, gpus, claims, plain=not inside and not mixed)
                if self._evict(leaf, job, need, givers, Reason.RECLAIM_GUARANTEE, key, accept):
                    return True
                # The cheapest may have used up what a guaranteed queue can give, where another node needs just that.
                owners = frozenset(other for other in givers.levels if self.tree.nodes[other].guaranteed)
                if owners != givers.last and len(owners) < len(givers.levels) and need.tasks > 1:
                    sparing = replace(givers, key=(givers.key, "owners last"), last=owners)
                    again = (*key, "owners last")
                    if self._evict(leaf, job, need, sparing, Reason.RECLAIM_GUARANTEE, again, accept):
                        return True
        return False

    def preempt(self, leaf: int, job: Job) -> bool:
        """Take the place of jobs of lower priority in the same queue."""
        least = job.least_tasks * job.gpus_per_task
        if job.priority <= self.least_priority or not self.hunt.lower_priority(leaf, job.priority):
            return False
        for mask, gpu_type in self.flavors(job):
            if gpu_type is None and self.tree.typed:
                continue
            gpus = {gpu_type or "": least}
            short = max((missing for _, missing in self._shortage(leaf, job, gpus)), default=0)
            idle = self.supply.now.idle
            if not self.ledger.may_borrow(leaf, gpus, idle) or not self.ledger.leaves_headroom(leaf, job, gpus, idle):
                short = least
            need = self.need(job, mask, ((leaf, short),) if short > 0 else ())
            # The lowest priority first, whatever it costs: who has more would take its place once it is requeued.
            for below in self.hunt.priorities_below(leaf, job.priority):
                givers = Givers(key=("preempt", leaf, below), levels={leaf: ()}, below_priority=below)
                key = ("preempt", self.shape(leaf, job, Standing.OWN)[:-1], gpu_type, below)
                accept = self._preempt_check(leaf, job, gpus, plain=short <= 0)
                if self._evict(leaf, job, need, givers, Reason.PREEMPT_PRIORITY, key, accept):
                    return True
        return False

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
                return covered and self.ledger.over_limit(lasting, leaf, job, gpus) is None
            finally:
                without.undo()

        def at_once(victims: Victims) -> bool:
            del victims
            return True

        if plain and self.ledger.over_limit(self.ledger.lasting, leaf, job, gpus) is None:
            return at_once
        return accept

    def _preempt_check(self, leaf: int, job: Job, gpus: GpusByType, *, plain: bool) -> Callable[[Victims], bool]:
        def accept(victims: Victims) -> bool:
            lasting = self.ledger.lasting
            without = _Without(victims, lasting)
            try:
                own = job.preemptible or lasting.within_guarantee(self.own_queue(leaf), gpus)
                return own and self.ledger.over_limit(lasting, leaf, job, gpus) is None
            finally:
                without.undo()

        def at_once(victims: Victims) -> bool:
            del victims
            return True

        if plain and job.preemptible and self.ledger.over_limit(self.ledger.lasting, leaf, job, gpus) is None:
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
        if self.hopeless.get(key) == self.disruptions:
            return False
        victims = self.hunt.find(need, givers, accept) if givers.levels else None
        if not victims:
            self.hopeless[key] = self.disruptions
            return False
        self.hunt.take(victims, givers)
        parts = self.promised_place(self.supply.soon, need, victims)
        assert parts is not None, "victims were checked to make room"  # noqa: S101
        idle = self.supply.take_soon(parts)
        self.ledger.start(leaf, job, self.nodes.by_type(parts))
        self.promises.append(
            Promise(
                leaf=leaf, job=job, need=need, reason=reason, accept=accept, victims=victims, parts=parts, idle=idle
            )
        )
        self.disruptions += len(victims)
        self.reasons[job.id] = Reason.RECLAIMING if reason is Reason.RECLAIM_GUARANTEE else Reason.PREEMPTING
        return True


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
                usage.add(taking.victim.leaf, taking.victim.job, taking.by_type, sign=sign)
