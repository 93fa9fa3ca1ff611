"""Whole GPUs that others borrow, for slices that are guaranteed: the cheapest jobs save and leave, their GPUs are cut.

The GPUs are taken at once, so that nobody gets them in between: the placeholders wait in Slurm for those who leave.
While GPUs are on their way to a job nobody is disturbed for it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from slurmext.model.job import Job, JobState
from slurmext.model.plan import Reason
from slurmext.model.slicing import GpuUse, HoldPlaces, SliceEvict, SliceJob
from slurmext.policy.slicing.cards import FULL_PCT, Host
from slurmext.policy.slicing.clearing import Price
from slurmext.policy.slicing.finder import TURN, Request, capacity
from slurmext.policy.slicing.gradient import shares_in
from slurmext.policy.slicing.kinds import GPU_PARTS
from slurmext.policy.slicing.making_room import MOST_TRIES
from slurmext.policy.slicing.needs import CardType
from slurmext.policy.slicing.owing import Owing
from slurmext.policy.victims import lost_seconds


@dataclass(frozen=True, slots=True)
class _Vacancy:
    """Room on one host: the GPUs that whole-GPU jobs leave there, and who leaves."""

    cost: float
    host: int
    cards: tuple[CardType, ...]
    leaving: frozenset[str]


class Vacating(Owing):
    """Take GPUs back from whole-GPU jobs that borrow."""

    @cached_property
    def _going(self) -> dict[str, frozenset[str]]:
        """Whole-GPU jobs on their way out for jobs of slices, by those."""
        found: dict[str, set[str]] = {}
        for other in self.whole.values():
            if other.evicting_for in self.jobs:
                found.setdefault(other.evicting_for or "", set()).add(other.id)
        return {beneficiary: frozenset(going) for beneficiary, going in found.items()}

    @cached_property
    def _whole_on(self) -> dict[str, list[tuple[str, int]]]:
        """Whole-GPU jobs by node, with how many of its GPUs they have."""
        found: dict[str, list[tuple[str, int]]] = {}
        for other in self.whole.values():
            for part in other.placement:
                found.setdefault(part.node, []).append((other.id, part.gpus // GPU_PARTS))
        return found

    def awaits(self, leaf: int, shadow: Job, job: SliceJob, requests: Sequence[Request]) -> bool:
        """Keep for the job the GPUs that are on their way to it; True when there are any."""
        going = self._going.get(job.id, frozenset())
        taken = {take.node for take in self.snapshot.taking if take.job == job.id and not take.gpu}
        if not (going or taken):
            return False
        for request in requests:
            there = [
                (host.name not in taken, number)
                for number, host in enumerate(self.yard.hosts)
                if self.site.best_on(number, request, 1, beside=False) is not None
            ]
            if len(there) >= job.need.nodes:
                hosts = [number for _, number in sorted(there)[: job.need.nodes]]
                self._promise(leaf, shadow, job, request, hosts, going, stage=1)
                break
        named = f"{_listed(going)} give back GPUs" if going else f"on {_listed(taken)} a GPU is made ready for it"
        self.say(job.id, Reason.RECLAIMING if going else Reason.SLICE_TAKING_GPU, named)
        return True

    def vacate(self, leaf: int, shadow: Job, job: SliceJob, requests: Sequence[Request]) -> bool:
        """Have whole-GPU jobs of queues that borrow give GPUs back; True when they will do."""
        if not self._whole_on:
            return False
        for request in requests:
            for gpu_type in self.wants.gpu_types(request.wish):
                gpus = {gpu_type: shadow.gpus}
                claims = self.quotas.claims(leaf, gpus)
                if not claims or self.quotas.refused(leaf, shadow, gpus) is not None:
                    continue
                barred: set[str] = set()
                for _ in range(MOST_TRIES):
                    ways = self._vacancies(job, request, gpu_type, self._price(leaf, claims, barred))
                    if ways is None:
                        break
                    kept_back = self._tell(leaf, claims, ways)
                    if kept_back is None:
                        self._vacate(leaf, shadow, job, request, ways)
                        return True
                    barred.add(kept_back)
        return False

    def _price(self, leaf: int, claims: Sequence[int], barred: set[str]) -> Price:
        """What it costs that a whole-GPU job gives back what its queue borrowed, to whoever claims it for the leaf."""
        known: dict[str, float | None] = {}

        def price(other: str) -> float | None:
            if other not in known:
                known[other] = None if other in barred else self._cost_of_whole(self.whole[other], leaf, claims)
            return known[other]

        return price

    def _cost_of_whole(self, victim: Job, leaf: int, claims: Sequence[int]) -> float | None:
        if victim.state is not JobState.RUNNING or victim.evicting_for is not None or self.quotas.spared(victim):
            return None
        owes = self.quotas.owes(victim, leaf, claims, self.quotas.by_type(victim))
        return self.quotas.cost(victim) if owes else None

    def _vacancies(self, job: SliceJob, request: Request, gpu_type: str, price: Price) -> list[_Vacancy] | None:
        """The cheapest hosts for the job; None when there are too few, or the pool has no room for their GPUs."""
        found = (
            self._vacancy(number, host, request, gpu_type, price)
            for number, host in enumerate(self.yard.hosts)
            if not request.candidates or host.name in request.candidates
        )
        ways = sorted((way for way in found if way is not None), key=lambda way: (way.cost, way.host))
        ways = ways[: job.need.nodes]
        if len(ways) < job.need.nodes or not any(way.cards for way in ways):
            return None
        room = self.pools.room(gpu_type)
        idle = sum(card.use is None for way in ways for card in self.yard.hosts[way.host].cards)
        return ways if room is None or sum(len(way.cards) for way in ways) + idle <= room else None

    def _vacancy(self, number: int, host: Host, request: Request, gpu_type: str, price: Price) -> _Vacancy | None:
        missing = request.per_node
        missing -= sum(capacity(card, request) for card in host.cards if self.site.usable(card, request, TURN))
        cards: list[CardType] = []
        for card_type in self.yard.busy.get(host.name, ()):
            each = _fit(card_type, request) if card_type.gpu_type == gpu_type else 0
            if missing > 0 and each > 0:
                cards.append(card_type)
                missing -= each
        leaving = self._cheapest(host.name, len(cards), price) if missing <= 0 else None
        if leaving is None:
            return None
        cpus, memory = self._given(host.name, leaving.union(*self._going.values()))
        if not host.has(request.cpus + len(cards) - cpus, request.memory_mib + len(cards) - memory):
            return None
        return _Vacancy(sum(price(other) or 0.0 for other in leaving), number, tuple(cards), leaving)

    def _cheapest(self, node: str, count: int, price: Price) -> frozenset[str] | None:
        """Of the jobs on the node some that give so many GPUs back there; None when they cannot."""
        rows: list[tuple[float, int, str]] = []
        for other, here in self._whole_on.get(node, ()) if count else ():
            cost = price(other)
            if cost is not None:
                rows.append((cost, here, other))
        chosen: list[tuple[float, int, str]] = []
        for row in sorted(rows, key=lambda row: (row[0] / row[1], row[2])):
            if sum(here for _, here, _ in chosen) < count:
                chosen.append(row)
        freed = sum(here for _, here, _ in chosen)
        if freed < count:
            return None
        for row in sorted(chosen, reverse=True):
            if freed - row[1] >= count:
                chosen.remove(row)
                freed -= row[1]
        alone = min((row for row in rows if row[1] >= count), default=None)
        if alone is not None and alone[0] < sum(cost for cost, _, _ in chosen):
            chosen = [alone]
        return frozenset(other for _, _, other in chosen)

    def _given(self, node: str, leaving: frozenset[str]) -> tuple[int, int]:
        """CPUs and memory that the jobs give back there."""
        given = [
            self.snapshot.beside.get(other, (0, 0))
            for other in leaving
            if any(part.node == node for part in self.whole[other].placement)
        ]
        return sum(cpus for cpus, _ in given), sum(memory for _, memory in given)

    def _tell(self, leaf: int, claims: Sequence[int], ways: Sequence[_Vacancy]) -> str | None:
        """Tell all of them to go; the first whose queue cannot give it too, and then nobody is told."""
        victims = [self.whole[other] for other in sorted({victim for way in ways for victim in way.leaving})]
        found = self.quotas.leave_all([(victim, self.quotas.by_type(victim)) for victim in victims], leaf, claims)
        return None if found is None else found.id

    def _vacate(self, leaf: int, shadow: Job, job: SliceJob, request: Request, ways: Sequence[_Vacancy]) -> None:
        leaving = frozenset(victim for way in ways for victim in way.leaving)
        self._going[job.id] = leaving
        for other in sorted(leaving):
            victim = self.whole[other] = _told(self.whole[other], job.id)
            gpus = victim.placed_gpus // GPU_PARTS
            self.evict.append(
                SliceEvict(
                    job=other,
                    beneficiary=job.id,
                    reason=Reason.RECLAIM_GUARANTEE,
                    lost_gpu_s=float(lost_seconds(victim, self.snapshot.now_s)) * gpus,
                    gpus=gpus,
                    from_queue=victim.queue,
                    to_queue=job.queue,
                )
            )
        fresh = [self.yard.vacate(way.host, card_type, request.use) for way in ways for card_type in way.cards]
        for way in ways:
            self.site.changed(way.host)
        self._promise(leaf, shadow, job, request, [way.host for way in ways], leaving, stage=TURN)
        for card in fresh:
            self.pools.taken(card, request.use, job.id)
        self.say(job.id, Reason.RECLAIMING, f"{_listed(leaving)} give back GPUs that their queues borrowed")

    def _promise(
        self,
        leaf: int,
        shadow: Job,
        job: SliceJob,
        request: Request,
        hosts: Sequence[int],
        leaving: frozenset[str],
        *,
        stage: int,
    ) -> None:
        """The best of these hosts is the job's; what CPUs others give back there is nobody else's before."""
        found = [(number, self.site.best_on(number, request, stage, beside=False)) for number in hosts]
        picks = [(number, best.picks) for number, best in found if best is not None]
        for number, chosen in picks:
            host = self.yard.hosts[number]
            for position in sorted({pick.card for pick in chosen}):
                if host.cards[position].use is not request.use:
                    self.pools.taken(host.cards[position], request.use, job.id)
            cpus, memory = self._given(host.name, leaving)
            if host.cpus is not None:
                host.cpus = max(0, min(host.cpus, host.cpus + cpus - request.cpus))
            if host.memory_mib is not None:
                host.memory_mib = max(0, min(host.memory_mib, host.memory_mib + memory - request.memory_mib))
        self.quotas.promise(leaf, shadow, self.by_type(picks))
        self.put(job, picks)
        there = tuple(place for place in self.places(picks) if self.yard.cards[place.gpu].stage == 0)
        self.hold.append(HoldPlaces(job=job.id, places=there, promised=True))


def _fit(card_type: CardType, request: Request) -> int:
    """How many of the request's slices an empty card of the type takes."""
    if request.use is GpuUse.SHARED:
        size = request.wish.shares.get(card_type.number)
        return shares_in(FULL_PCT, card_type.memory_mib, size)
    profile = request.wish.profiles.get(card_type.number)
    return 0 if card_type.kind is None or profile is None else card_type.kind.count(card_type.kind.empty, profile)


def _told(job: Job, beneficiary: str) -> Job:
    return replace(job, evicting_for=beneficiary)


def _listed(names: frozenset[str] | set[str]) -> str:
    return ", ".join(sorted(names)[:5])
