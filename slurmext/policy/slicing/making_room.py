"""The harsher steps for one job: wait for slices on their way out, take back what others borrowed, move jobs that
consented, and hold a place for a request that has waited long. A busy slice is never touched in any other way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slurmext.model.job import Job, JobState
from slurmext.model.plan import Reason
from slurmext.model.slicing import HoldPlaces, SliceEvict, SliceJob, SliceMove
from slurmext.policy.slicing.cards import Card, Tenant
from slurmext.policy.slicing.clearing import Clearing, Price, clearing
from slurmext.policy.slicing.desk import Picks
from slurmext.policy.slicing.finder import Request
from slurmext.policy.slicing.kinds import GPU_PARTS
from slurmext.policy.slicing.placing import Placing
from slurmext.policy.victims import lost_seconds

MOST_HOLDS = 16
"""So many places are held for jobs that waited long; each keeps something idle."""

MOST_TRIES = 4
"""So many times victims are chosen anew when a queue cannot give all of those chosen first."""

NO_END_S = 30 * 86400.0
"""A job without a time limit counts as if it had so long left."""


@dataclass(slots=True, eq=False)
class _Kept:
    """A hold that can be undone."""

    job: SliceJob
    tenants: list[tuple[Card, Tenant]]
    left: list[Tenant]
    before: list[tuple[int, int | None, int | None]]


class MakingRoom(Placing):
    """Wait, reclaim, move, hold."""

    def wait(self, leaf: int, shadow: Job, job: SliceJob, requests: Sequence[Request]) -> bool:
        """Keep for the job what is given back anyway; True when that will do."""
        if not self.leaving:
            return False

        def price(other: str) -> float | None:
            return 0.0 if other in self.leaving else None

        found = self._search(job, requests, price)
        if found is None or not any(one.leaving for one in found[1]):
            return False
        request, ways = found
        gone = {other for one in ways for other in one.leaving}
        self._keep(job, request, ways, promised=True)
        self.quotas.promise(leaf, shadow, self.by_type([(one.host, one.picks) for one in ways]))
        asked = any(self.leaving[other] == job.id for other in gone)
        named = ", ".join(sorted(gone)[:5])
        self.say(job.id, Reason.RECLAIMING if asked else Reason.SLICE_FULL, f"slices of {named} are being given back")
        return True

    def reclaim(self, leaf: int, shadow: Job, job: SliceJob, requests: Sequence[Request]) -> bool:
        """Take back slices that other queues borrowed; True when they will do."""
        gpus = {gpu_type or "": shadow.gpus for gpu_type in self._types(requests)}
        barred: set[str] = set()
        for gpu_type, parts in gpus.items():
            claims = self.quotas.claims(leaf, {gpu_type: parts})
            if not claims or self.quotas.refused(leaf, shadow, {gpu_type: parts}) is not None:
                continue
            for _ in range(MOST_TRIES):
                found = self._search(job, requests, self.reclaim_price(leaf, claims, barred))
                if found is None:
                    break
                kept_back = self.take(leaf, claims, _leaving(found[1]))
                if kept_back is None:
                    self._evict(leaf, shadow, job, *found)
                    return True
                barred.add(kept_back)
        return False

    def _types(self, requests: Sequence[Request]) -> list[str | None]:
        if not self.quotas.tree.typed:
            return [None]
        return list({name: None for request in requests for name in self.wants.gpu_types(request.wish)})

    def reclaim_price(self, leaf: int, claims: Sequence[int], barred: set[str]) -> Price:
        """What it costs that a job gives back what its queue borrowed, to whoever claims it for the leaf."""
        known: dict[str, float | None] = {}

        def price(other: str) -> float | None:
            if other not in known:
                known[other] = self._cost_of(other, leaf, claims) if other not in barred else None
            return known[other]

        return price

    def _cost_of(self, other: str, leaf: int, claims: Sequence[int]) -> float | None:
        victim = self.jobs.get(other)
        if victim is None or victim.state is not JobState.RUNNING or other in self.leaving:
            return None
        shadow = self.shadows[other]
        if self.quotas.spared(shadow) or not self.quotas.owes(shadow, leaf, claims, self.parts[other]):
            return None
        return self.quotas.cost(shadow)

    def take(self, leaf: int, claims: Sequence[int], victims: Sequence[str]) -> str | None:
        """Have all victims give back what they have; the first whose queue cannot give it too, and then nobody does."""
        found = self.quotas.leave_all([(self.shadows[other], self.parts[other]) for other in victims], leaf, claims)
        return None if found is None else found.id

    def tell_to_go(self, victims: Sequence[str], beneficiary: str, to_queue: str) -> None:
        """Write down that these leave for the beneficiary."""
        for other in victims:
            victim = self.shadows[other]
            self.leaving[other] = beneficiary
            self.evict.append(
                SliceEvict(
                    job=other,
                    beneficiary=beneficiary,
                    reason=Reason.RECLAIM_GUARANTEE,
                    lost_gpu_s=float(lost_seconds(victim, self.snapshot.now_s)) * victim.gpus / GPU_PARTS,
                    from_queue=victim.queue,
                    to_queue=to_queue,
                )
            )

    def _evict(self, leaf: int, shadow: Job, job: SliceJob, request: Request, ways: Sequence[Clearing]) -> None:
        self.tell_to_go(_leaving(ways), job.id, job.queue)
        self._keep(job, request, ways, promised=True)
        self.quotas.promise(leaf, shadow, self.by_type([(one.host, one.picks) for one in ways]))
        named = ", ".join(_leaving(ways)[:5])
        self.say(job.id, Reason.RECLAIMING, f"{named} give back what their queues borrowed")

    # --- moves ------------------------------------------------------------------------------------------------------

    def make_room(self, leaf: int, shadow: Job, job: SliceJob, requests: Sequence[Request]) -> bool:
        """Move jobs that consented to other places, when that gains more than it costs."""
        settings = self.snapshot.settings
        left = settings.most_moves - len(self.move)
        if not settings.defragment or left <= 0 or not any(other.movable for other in self.jobs.values()):
            return False
        found = self._search(job, requests, self._move_price)
        if found is None:
            return False
        request, ways = found
        movers = _leaving(ways)
        cost = sum(one.cost for one in ways)
        gain = float(shadow.gpus) / GPU_PARTS * float(settings.worth_s)
        if len(movers) > left or cost >= gain:
            return False
        picks = [(one.host, one.picks) for one in ways]
        if self.quotas.refused(leaf, shadow, self.by_type(picks)) is not None:
            return False
        kept = self._keep(job, request, ways, promised=True)
        moved: list[tuple[SliceMove, _Kept]] = []
        for other in movers:
            made = self._moved(other, job.id, gain / len(movers))
            if made is None:
                for _, target in reversed(moved):
                    self._undo(target)
                self._undo(kept)
                return False
            moved.append(made)
        self.move += [move for move, _ in moved]
        self.leaving |= dict.fromkeys(movers, job.id)
        self.quotas.promise(leaf, shadow, self.by_type(picks))
        self.say(job.id, Reason.CONSOLIDATING, f"{', '.join(movers)} move to other slices")
        return True

    def _move_price(self, other: str) -> float | None:
        mover = self.jobs.get(other)
        if mover is None or not (mover.movable and mover.requeue) or mover.state is not JobState.RUNNING:
            return None
        budget = self.snapshot.settings.preemption_budget
        if other in self.leaving or (budget is not None and mover.preempted >= budget):
            return None
        return self.quotas.cost(self.shadows[other])

    def _moved(self, other: str, beneficiary: str, gain: float) -> tuple[SliceMove, _Kept] | None:
        """The mover with its new places kept for it; None when there are none."""
        mover = self.jobs[other]
        wanted = self.wish(mover)
        if wanted is None:
            return None
        for request in self.wants.requests(mover, wanted):
            found = self.site.finder(request, 0).best(mover.need.nodes)
            if found is not None:
                ways = [Clearing(number, 0.0, best.picks, frozenset()) for number, best in found]
                target = self.places([(one.host, one.picks) for one in ways])
                kept = self._keep(mover, request, ways, promised=True)
                move = SliceMove(
                    job=other,
                    source=mover.places,
                    target=target,
                    beneficiary=beneficiary,
                    gain_gpu_s=gain,
                    cost_gpu_s=self.quotas.cost(self.shadows[other]),
                )
                return move, kept
        return None

    # --- holds ------------------------------------------------------------------------------------------------------

    def hold_for(self, job: SliceJob, requests: Sequence[Request]) -> bool:
        """Keep for a job that waited long the places that are free soonest; small ones no longer slip in there."""
        now_s, settings = self.snapshot.now_s, self.snapshot.settings
        if now_s - job.submitted_s < settings.hold_after_s or len(self.hold) >= MOST_HOLDS:
            return False

        def price(other: str) -> float | None:
            running = self.jobs.get(other)
            if running is None:
                return None
            if other in self.leaving:
                return 0.0
            if running.time_limit_s is None:
                return NO_END_S
            started = now_s if running.started_s is None else running.started_s
            return min(NO_END_S, max(0.0, float(started + running.time_limit_s - now_s))) + 1.0

        found = self._search(job, requests, price)
        if found is None:
            return False
        self._keep(job, found[0], found[1], promised=False)
        return True

    def keep_targets(self) -> None:
        """What was kept for jobs that are being moved stays so while they are on their way."""
        for hold in sorted(self.snapshot.holds, key=lambda hold: hold.job):
            job = self.jobs.get(hold.job)
            if job is None or job.id not in self.leaving or not hold.promised:
                continue
            kept = tuple(place for place in hold.places if self._free(place.gpu, place.profile, place.start))
            if kept != hold.places or any(place.profile is None for place in kept):
                continue
            for place in kept:
                card = self.yard.cards[place.gpu]
                spot = card.kind.spot(place.profile or "", place.start or 0) if card.kind is not None else None
                card.put(Tenant(job.id, spot, hold=True))
                card.touched = True
                self.site.changed(card.node)
            self.hold.append(hold)

    def _free(self, gpu: str, profile: str | None, start: int | None) -> bool:
        card = self.yard.cards.get(gpu)
        if card is None or card.kind is None or profile is None:
            return False
        spot = card.kind.spot(profile, start or 0)
        return spot is not None and spot in card.kind.options(card.mig, spot.profile)

    def _search(
        self, job: SliceJob, requests: Sequence[Request], price: Price
    ) -> tuple[Request, list[Clearing]] | None:
        """The cheapest hosts to clear for the job; None when too few can be."""
        for request in requests:
            ways: list[Clearing] = []
            for number, host in enumerate(self.yard.hosts):
                found = clearing(number, host, request, price, lambda other, at=number: self.on_host(other, at))
                if found is not None:
                    ways.append(found)
            if len(ways) >= job.need.nodes:
                ways.sort(key=lambda way: (way.cost, way.host))
                return request, ways[: job.need.nodes]
        return None

    def _keep(self, job: SliceJob, request: Request, ways: Sequence[Clearing], *, promised: bool) -> _Kept:
        """Nobody else gets these places any more."""
        picks: Picks = [(one.host, one.picks) for one in ways]
        kept = _Kept(job, [], [], [])
        for one in ways:
            host = self.yard.hosts[one.host]
            kept.before.append((one.host, host.cpus, host.memory_mib))
            freed = [self.on_host(other, one.host) for other in one.leaving]
            cpus, memory = sum(c for c, _ in freed), sum(m for _, m in freed)
            if host.cpus is not None:
                host.cpus = max(0, min(host.cpus, host.cpus + cpus - request.cpus))
            if host.memory_mib is not None:
                host.memory_mib = max(0, min(host.memory_mib, host.memory_mib + memory - request.memory_mib))
            for card in host.cards:
                for tenant in card.tenants:
                    if tenant.job in one.leaving and not tenant.hold and not tenant.leaving:
                        tenant.leaving = True
                        kept.left.append(tenant)
                card.recount()
        kept.tenants = self.put(job, picks, hold=True)
        self.hold.append(HoldPlaces(job=job.id, places=self.places(picks), promised=promised))
        return kept

    def _undo(self, kept: _Kept) -> None:
        for tenant in kept.left:
            tenant.leaving = False
        for card, tenant in kept.tenants:
            card.remove(tenant)
        for number, cpus, memory in kept.before:
            host = self.yard.hosts[number]
            host.cpus, host.memory_mib = cpus, memory
            for card in host.cards:
                card.recount()
            self.site.changed(number)
        self.hold = [hold for hold in self.hold if hold.job != kept.job.id]


def _leaving(ways: Iterable[Clearing]) -> list[str]:
    """Who leaves, each once, by id."""
    return sorted({other for way in ways for other in way.leaving})
