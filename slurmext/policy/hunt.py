"""Finds the cheapest set of victims whose GPUs, with those idle or already leaving, make room for one beneficiary.

Node by node: what does the next task cost here? The cheapest node is taken, its victims' GPUs on other nodes are
credited there, and so on until every task has a place. Then whatever can be left out is left out, so that the set is
minimal, and the beneficiary's placement on the result is certain before anyone is told to go.

The price per node is kept between searches of the same kind and only renewed where something changed, so reclaiming
4,000 GPUs one by one does not look at 500 nodes 4,000 times. A kept price can only have become too low elsewhere (a
queue gave all it could), so it is checked again when its node comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from slurmext.policy.herd import Givers, Herd, Need, Victims, freed_inside, rank
from slurmext.policy.ledger import Ledger
from slurmext.policy.minimal import from_the_end, minimal
from slurmext.policy.supply import NodeTable, Supply, indices_of
from slurmext.policy.victims import NO_COST, Candidate, Cost, Taking, take_tasks, take_whole

LAST_RESORT = 1e15
"""Added to the cost of victims that are taken only where the others do not suffice."""

SECOND_TRIES = 4
"""How many times one search starts, each time without the victim that came first before."""

Offer = tuple[Cost, int, Victims]
"""(cost per task, tasks, victims) of one node."""

Entry = tuple[Cost, int, int, int]
"""(cost per task, -tasks, node number, stamp)."""


@dataclass(slots=True)
class _Trial:
    """One search in progress: who is taken, GPUs that this frees per node, GPUs the beneficiary uses of each node."""

    taken: Victims = field(default_factory=dict[str, Taking])
    extra: dict[int, int] = field(default_factory=dict[int, int])
    used: dict[int, int] = field(default_factory=dict[int, int])
    touched: set[int] = field(default_factory=set[int])
    barred: set[str] = field(default_factory=set[str])


@dataclass(slots=True)
class _Prices:
    """Kept prices of one kind of search. `seen` is how far the log of changed nodes was read."""

    heap: list[Entry]
    stamps: dict[int, int]
    seen: int


class Hunt(Herd):
    """Searches among the victims that are still there."""

    def __init__(self, candidates: Iterable[Candidate], nodes: NodeTable, supply: Supply, ledger: Ledger) -> None:
        super().__init__(candidates, nodes, supply, ledger)
        self._prices: dict[Hashable, _Prices] = {}

    def find(self, need: Need, givers: Givers, accept: Callable[[Victims], bool]) -> Victims | None:
        """The victims to take, or None when no allowed set makes room. Nothing is changed by searching.

        `accept` has the last word on a set, before and while it is made minimal.
        """
        barred: set[str] = set()
        for _ in range(SECOND_TRIES):
            trial = _Trial(barred=barred)
            found = self._make_room(trial, need, givers) and self._free_inside(trial, need, givers)
            for taking in trial.taken.values():
                self._count(taking, sign=1)
            if found and accept(trial.taken):
                return from_the_end(self, minimal(self, trial.taken, need, accept), need)
            if not trial.taken:
                return None
            # The cheapest came first and may have used up what its queue can give: try once more without it.
            barred.add(next(iter(trial.taken)))
        return None

    # --- room on nodes ----------------------------------------------------------------------------------------------

    def _make_room(self, trial: _Trial, need: Need, givers: Givers) -> bool:
        prices = self._current_prices(need, givers)
        local: list[Entry] = []
        set_aside: list[Entry] = []
        left = need.tasks
        while left:
            entry = _cheapest(prices, local, trial, set_aside)
            if entry is None:
                break
            index = entry[2]
            trial.touched.add(index)
            offer = self._offer(trial, index, left, need, givers)
            if offer is None:
                continue
            cost, tasks, picks = offer
            if (cost, -tasks) > entry[:2]:
                heappush(local, (cost, -tasks, index, -1))
                continue
            left -= tasks
            trial.used[index] = trial.used.get(index, 0) + tasks * need.size
            renewed = {index}
            for taking in picks.values():
                renewed |= self._adopt(trial, taking)
            trial.touched |= renewed
            for other in sorted(renewed):
                again = self._offer(trial, other, left, need, givers) if need.mask >> other & 1 and left else None
                if again is not None:
                    heappush(local, (again[0], -again[1], other, -1))
        for entry in set_aside:
            heappush(prices.heap, entry)
        return not left

    def _current_prices(self, need: Need, givers: Givers) -> _Prices:
        key = (givers.key, need.size, need.mask, need.per_node, need.tasks == 1)
        prices = self._prices.get(key)
        if prices is None:
            prices = self._prices[key] = _Prices([], {}, 0)
            stale = list(indices_of(need.mask))
        else:
            stale = sorted(set(self.log[prices.seen :]))
        prices.seen = len(self.log)
        empty, most = _Trial(), 1 if need.tasks == 1 else max(self.nodes.gpus, default=1)
        fresh: list[Entry] = []
        for index in stale:
            if need.mask >> index & 1:
                stamp = prices.stamps[index] = prices.stamps.get(index, 0) + 1
                offer = self._offer(empty, index, most, need, givers)
                if offer is not None:
                    fresh.append((offer[0], -offer[1], index, stamp))
        if prices.heap:
            for entry in fresh:
                heappush(prices.heap, entry)
        else:
            prices.heap = fresh
            heapify(prices.heap)
        return prices

    def _offer(self, trial: _Trial, index: int, most: int, need: Need, givers: Givers) -> Offer | None:
        """The best the node can do for up to `most` more tasks."""
        used = trial.used.get(index, 0)
        here = self.supply.soon.free[index] + trial.extra.get(index, 0) - used
        if need.per_node is not None:
            most = min(most, need.per_node - used // need.size)
        if most <= 0:
            return None
        ready = min(most, here // need.size)
        if ready > 0:
            return NO_COST, ready, {}
        if not self.on_node[index]:
            return None
        one = self._single(trial, index, need.size - here, givers)
        if most == 1 and need.size - here == 1:
            return one
        several = self._several(trial, index, here, most, need.size, givers)
        if several is None and one is None:
            several = self._several(trial, index, here, most, need.size, givers, shrinking=False)
        if one is None or several is None:
            return several if one is None else one
        return min(one, several, key=lambda offer: (offer[0], -offer[1]))

    def _single(self, trial: _Trial, index: int, deficit: int, givers: Givers) -> Offer | None:
        """The one victim that frees `deficit` GPUs here at the least cost."""
        best: Offer | None = None
        for victim in self.on_node[index]:
            if not self._may_give(trial, victim, givers):
                continue
            count = -(-deficit // victim.task_gpus)
            taking = None
            if victim.surplus and count <= self._surplus(trial, victim, index):
                taking = take_tasks(victim, {index: count}, self.nodes)
            elif victim.job.id not in self.shrunk and _gain(trial, take_whole(victim), index) >= deficit:
                taking = take_whole(victim)
            if taking is None or not self._guarantees_kept(taking, givers, trial.taken.get(victim.job.id)):
                continue
            cost = _cost(taking, givers)
            if best is None or cost < best[0]:
                best = cost, 1, {victim.job.id: taking}
        return best

    def _several(
        self, trial: _Trial, index: int, here: int, most: int, size: int, givers: Givers, *, shrinking: bool = True
    ) -> Offer | None:
        """Victims one after the other, elastic surplus first, as long as the cost per task falls."""
        best: Offer | None = None
        picks: Victims = {}
        freed, total = 0, NO_COST
        for taking in self._steps(trial, index, givers, shrinking=shrinking):
            job_id = taking.victim.job.id
            before = trial.taken.get(job_id)
            if not self._guarantees_kept(taking, givers, before):
                continue
            self._count(taking, sign=-1)
            picks[job_id] = _joined(picks.get(job_id), taking, self.nodes)
            freed += _gain(trial, taking, index)
            cost = _cost(taking, givers)
            total = (total[0] + cost[0], total[1] + cost[1], total[2] + cost[2])
            tasks = min(most, (here + freed) // size)
            if tasks:
                each = (total[0] / tasks, total[1] / tasks, total[2] / tasks)
                if best is None or (each, -tasks) < (best[0], -best[1]):
                    best = each, tasks, dict(picks)
                if tasks == most:
                    break
        for taking in picks.values():
            self._count(taking, sign=1)
        if best is None or len(best[2]) == 1:
            return best
        return _without_spare(best, trial, index, best[1] * size - here, givers)

    def _steps(self, trial: _Trial, index: int, givers: Givers, *, shrinking: bool) -> Iterable[Taking]:
        eligible = [victim for victim in self.on_node[index] if self._may_give(trial, victim, givers)]
        shrinkable = sorted((v for v in eligible if v.surplus and shrinking), key=lambda v: (v.per_task, v.job.id))
        shrinks: set[str] = set()
        for victim in shrinkable:
            for _ in range(self._surplus(trial, victim, index)):
                shrinks.add(victim.job.id)
                yield take_tasks(victim, {index: 1}, self.nodes)
        for victim in eligible:
            if victim.job.id not in self.shrunk and victim.job.id not in shrinks:
                yield take_whole(victim)

    def _may_give(self, trial: _Trial, victim: Candidate, givers: Givers) -> bool:
        if victim.leaf not in givers.levels or victim.job.id in self.gone or victim.job.id in trial.barred:
            return False
        if givers.below_priority is not None and victim.job.priority >= givers.below_priority:
            return False
        taken = trial.taken.get(victim.job.id)
        return taken is None or not taken.whole

    def _surplus(self, trial: _Trial, victim: Candidate, index: int) -> int:
        """Tasks on the node that the victim can do without."""
        taken = trial.taken.get(victim.job.id)
        before = self.shrunk.get(victim.job.id, {})
        left = victim.surplus - sum(before.values()) - (taken.tasks if taken else 0)
        here = _gpus_on(victim, index) // victim.task_gpus - before.get(index, 0)
        if taken:
            here -= sum(gpus for node, gpus in taken.parts if node == index) // victim.task_gpus
        return max(0, min(left, here))

    def _guarantees_kept(self, taking: Taking, givers: Givers, before: Taking | None = None) -> bool:
        """Whether every level keeps its guarantee. `before` is a share of the same victim that counts as taken."""
        solid, queues = self.ledger.solid, self.ledger.tree.nodes
        levels = givers.levels[taking.victim.leaf]
        if self.gave:
            levels = [*levels, *(i for i in taking.victim.lineage if i in self.gave and i not in levels)]
        if before is not None and taking.whole:
            self._count(before, sign=1)
        kept = all(solid.can_give(queues[level], taking.by_type) for level in levels)
        if before is not None and taking.whole:
            self._count(before, sign=-1)
        return kept

    def _count(self, taking: Taking, *, sign: int) -> None:
        self.ledger.solid.add(taking.victim.leaf, taking.victim.job, taking.by_type, sign=sign)

    def _adopt(self, trial: _Trial, taking: Taking) -> set[int]:
        """Take it in this trial; returns the nodes where GPUs come free."""
        job_id = taking.victim.job.id
        parts = list(taking.parts)
        before = trial.taken.get(job_id)
        if before is not None and taking.whole:
            self._count(before, sign=1)
            parts += [(index, -gpus) for index, gpus in before.parts]
            before = None
        self._count(taking, sign=-1)
        trial.taken[job_id] = _joined(before, taking, self.nodes)
        for index, gpus in parts:
            if self.nodes.usable >> index & 1:
                trial.extra[index] = trial.extra.get(index, 0) + gpus
        return {index for index, _ in parts}

    # --- room under a max -------------------------------------------------------------------------------------------

    def _free_inside(self, trial: _Trial, need: Need, givers: Givers) -> bool:
        """Take more victims until enough comes free within each queue that is at its max."""
        for queue, gpus in need.inside:
            missing = gpus - freed_inside(trial.taken, queue)
            if missing <= 0:
                continue
            leaves = [leaf for leaf in sorted(self.of_leaf) if queue in self.ledger.tree.nodes[leaf].lineage]
            pool = [victim for leaf in leaves for victim in self.of_leaf[leaf] if self._may_give(trial, victim, givers)]
            for taking in self._cheapest_of(trial, pool, missing):
                if self._guarantees_kept(taking, givers, trial.taken.get(taking.victim.job.id)):
                    self._adopt(trial, taking)
                if freed_inside(trial.taken, queue) >= gpus:
                    break
            else:
                return False
        return True

    def _cheapest_of(self, trial: _Trial, pool: list[Candidate], missing: int) -> Iterable[Taking]:
        for victim in sorted((v for v in pool if v.surplus), key=lambda v: (v.per_task, v.job.id)):
            for index, _ in reversed(victim.parts):
                count = min(self._surplus(trial, victim, index), -(-missing // victim.task_gpus))
                if count:
                    yield take_tasks(victim, {index: count}, self.nodes)
        for victim in sorted(pool, key=rank):
            taken = trial.taken.get(victim.job.id)
            if victim.job.id not in self.shrunk and not (taken and taken.whole):
                yield take_whole(victim)


def _cost(taking: Taking, givers: Givers) -> Cost:
    whole, surplus, age = taking.cost
    return (whole + LAST_RESORT, surplus, age) if taking.victim.leaf in givers.last else (whole, surplus, age)


def _gpus_on(victim: Candidate, index: int) -> int:
    return sum(gpus for node, gpus in victim.parts if node == index)


def _gain(trial: _Trial, taking: Taking, index: int) -> int:
    """GPUs on the node that come free beyond what is taken of the same victim already."""
    gpus = sum(count for node, count in taking.parts if node == index)
    before = trial.taken.get(taking.victim.job.id)
    if taking.whole and before is not None:
        gpus -= sum(count for node, count in before.parts if node == index)
    return gpus


def _joined(before: Taking | None, taking: Taking, nodes: NodeTable) -> Taking:
    """Two shares of the same victim as one."""
    if before is None or taking.whole:
        return taking
    on_node: dict[int, int] = {}
    for index, gpus in (*before.parts, *taking.parts):
        on_node[index] = on_node.get(index, 0) + gpus // taking.victim.task_gpus
    return take_tasks(taking.victim, on_node, nodes)


def _without_spare(offer: Offer, trial: _Trial, index: int, needed: int, givers: Givers) -> Offer:
    """The offer without victims the node can do without, the most expensive left out first."""
    _, tasks, picks = offer
    freed = sum(_gain(trial, taking, index) for taking in picks.values())
    kept = dict(picks)
    for job_id, taking in sorted(picks.items(), key=lambda item: (_cost(item[1], givers), item[0]), reverse=True):
        here = _gain(trial, taking, index)
        if freed - here >= needed:
            freed -= here
            del kept[job_id]
    costs = [_cost(taking, givers) for taking in kept.values()]
    return (
        (sum(c[0] for c in costs) / tasks, sum(c[1] for c in costs) / tasks, sum(c[2] for c in costs) / tasks),
        tasks,
        kept,
    )


def _cheapest(prices: _Prices, local: list[Entry], trial: _Trial, set_aside: list[Entry]) -> Entry | None:
    """The cheapest entry of both heaps that still holds; those taken from the kept heap are set aside."""
    while prices.heap and (not local or prices.heap[0][:3] < local[0][:3]):
        entry = heappop(prices.heap)
        if prices.stamps.get(entry[2]) == entry[3]:
            set_aside.append(entry)
            if entry[2] not in trial.touched:
                return entry
    return heappop(local) if local else None
