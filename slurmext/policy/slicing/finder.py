"""The best place for a request: on each node the placement that loses least, over all nodes the best of those.

Many jobs ask for the same, and a placement changes one node. So every kind of request keeps its nodes in a heap and
looks again only at those that changed since it was asked last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from slurmext.model.slicing import GpuUse
from slurmext.policy.slicing.cards import FULL_PCT, Card, Host, SharedState, Yard
from slurmext.policy.slicing.gradient import Mix, shares_in
from slurmext.policy.slicing.kinds import GPU_PARTS, CardState, Spot
from slurmext.policy.slicing.needs import ShareSize, Wish

WARM_WORTH = 0.02 * GPU_PARTS
"""What may be lost to find a warm instance at the very place: it saves making one."""
WARM_COST = 0.001 * GPU_PARTS
"""The same for a warm one that is destroyed."""

TURN = 2
"""The stage at which GPUs change their use."""

Score = tuple[int, int, float, float]
"""(how late the job names the card's type, stage, parts of GPUs lost, parts left on the node)."""


@dataclass(frozen=True, slots=True)
class Pick:
    """One slice on a card of a host, as it will be used."""

    card: int
    use: GpuUse
    spot: Spot | None
    share: ShareSize | None


_State = tuple[GpuUse | None, CardState, SharedState]
_After = tuple[GpuUse, CardState, SharedState]
_Way = tuple[Pick, _After, float]


@dataclass(slots=True, eq=False)
class Request:
    """What jobs that are alike ask of each node, in one use. `types` and `candidates`: empty for any."""

    number: int
    wish: Wish
    use: GpuUse
    per_node: int
    cpus: int
    memory_mib: int
    types: tuple[str, ...]
    candidates: frozenset[str]


@dataclass(frozen=True, slots=True)
class Found:
    """The best of one host."""

    score: Score
    picks: tuple[Pick, ...]


class Site:
    """The yard, the mix it is judged by, and what is known about who fits where."""

    def __init__(self, yard: Yard, mix: Mix) -> None:
        self.yard, self.mix = yard, mix
        self.changes: list[int] = []
        self.closed: set[int] = set()
        """Numbers of card types of which no more idle GPUs may be taken."""
        self._finders: dict[tuple[int, int, int], Finder] = {}
        self._known: dict[tuple[object, ...], Found | None] = {}
        self._ways: dict[tuple[object, ...], tuple[Spot | None, ShareSize | None, _After, float] | None] = {}
        self._signatures: dict[int, tuple[object, ...]] = {}

    def changed(self, host: int) -> None:
        """Something was put on the host, or taken away."""
        self.changes.append(host)
        self._signatures.pop(host, None)

    def finder(self, request: Request, stage: int) -> Finder:
        """Where the request's jobs go, on cards up to that stage."""
        key = request.number, stage, len(self.closed) if stage > 1 else 0
        found = self._finders.get(key)
        if found is None:
            found = self._finders[key] = Finder(self, request, stage)
        return found

    def best_on(self, host_number: int, request: Request, stage: int, *, beside: bool = True) -> Found | None:
        """The placement on the host that loses least, None: there is none. `beside` False: as if CPUs were free."""
        host = self.yard.hosts[host_number]
        if request.candidates and host.name not in request.candidates:
            return None
        if beside and not host.has(request.cpus, request.memory_mib):
            return None
        signature = self._signatures.get(host_number)
        if signature is None:
            signature = self._signatures[host_number] = (
                host.cpus, host.memory_mib, *(card.signature() for card in host.cards),
            )  # fmt: skip
        key = request.number, stage, len(self.closed), signature
        if key not in self._known:
            self._known[key] = self._search(host, request, stage)
        return self._known[key]

    def _search(self, host: Host, request: Request, stage: int) -> Found | None:
        cards = host.cards
        usable = [card for card in cards if self.usable(card, request, stage)]
        states = [(card.use, card.mig, card.shared) for card in cards]
        numbers = [self.mix.now(card) for card in cards]
        room: dict[int, int] = {}
        if request.per_node > 1:
            room = {card.position: capacity(card, request) for card in usable}
            if sum(room.values()) < request.per_node:
                return None
        before = self.mix.host(host, numbers)
        picks: list[Pick] = []
        bonus = 0.0
        latest, rank = 0, 0
        for more in reversed(range(request.per_node)):
            found = self._next(host, request, usable, states, numbers, room, more)
            if found is None:
                return None
            (late, used_stage, _, worth), pick, state = found
            states[pick.card], bonus = state, bonus + worth
            latest, rank = max(latest, used_stage), max(rank, late)
            card = cards[pick.card]
            numbers[pick.card] = self.mix.number(card, *state)
            if more:
                room[pick.card] = _capacity(card, request, state)
            picks.append(pick)
        lost = self.mix.host(host, numbers, request.cpus, request.memory_mib) - before - bonus
        return Found((rank, latest, round(lost, 6), self.mix.free(numbers)), tuple(picks))

    def _next(
        self,
        host: Host,
        request: Request,
        usable: Sequence[Card],
        states: Sequence[_State],
        numbers: list[int],
        room: dict[int, int],
        more: int,
    ) -> tuple[tuple[int, int, float, float], Pick, _After] | None:
        """The best next slice, such that `more` fit afterwards."""
        all_room = sum(room.values())
        seen: set[tuple[object, ...]] = set()
        best: tuple[tuple[int, int, float], float, Pick, _After] | None = None
        for card in usable:
            at = card.position
            alike = card.card_type.number, card.stage, states[at], tuple(spot for spot, _ in card.warm)
            if alike in seen:
                continue
            seen.add(alike)
            late = request.types.index(card.card_type.gpu_type) if request.types else 0
            kept = numbers[at]
            ways = _ways(card, request, states[at]) if more else self._best_way(card, request, states[at])
            for pick, state, worth in ways:
                if more and all_room - room[at] + _capacity(card, request, state) < more:
                    continue
                numbers[at] = self.mix.number(card, *state)
                lost = self.mix.host(host, numbers, request.cpus, request.memory_mib) - worth
                key = late, _stage(card, request), round(lost, 6)
                if best is None or key < best[0]:
                    best = key, worth, pick, state
            numbers[at] = kept
        return None if best is None else ((*best[0], best[1]), best[2], best[3])

    def _best_way(self, card: Card, request: Request, state: _State) -> list[_Way]:
        """Of the ways to put one slice on the card the one that loses least of it, in a list; empty when none is."""
        warm = tuple(spot for spot, _ in card.warm)
        key = request.number, card.card_type.number, card.strange, state, warm
        found = self._ways.get(key, ())
        if found == ():
            ways = _ways(card, request, state)
            best = min(ways, key=lambda way: self.mix.mean(self.mix.number(card, *way[1])) - way[2], default=None)
            found = self._ways[key] = None if best is None else (best[0].spot, best[0].share, best[1], best[2])
        if not found:
            return []
        spot, share, after, worth = found
        return [(Pick(card.position, request.use, spot, share), after, worth)]

    def usable(self, card: Card, request: Request, stage: int) -> bool:
        """Whether the request may go there at that stage, if there is room."""
        if card.stage > stage or card.closing:
            return False
        number = card.card_type.number
        known = request.wish.profiles if request.use is GpuUse.MIG else request.wish.shares
        if number not in known:
            return False
        if card.use is None:
            return number not in self.closed
        return card.use is request.use or (stage >= TURN and card.empty and card.stage == 0)


def _stage(card: Card, request: Request) -> int:
    """An empty card in another use is as far from use as an idle GPU."""
    return card.stage if card.use is None or card.use is request.use else TURN


def _ways(card: Card, request: Request, state: _State) -> list[_Way]:
    """Every way to put one slice on the card, the state after it, and what it is worth or costs beside that."""
    _, mig, shared = state
    number = card.card_type.number
    if request.use is GpuUse.SHARED:
        size = request.wish.shares[number]
        if not _capacity(card, request, state):
            return []
        after = SharedState(shared.percent + size.percent, shared.memory_mib + size.memory_mib)
        return [(Pick(card.position, request.use, None, size), (request.use, mig, after), 0.0)]
    kind, profile = card.kind, request.wish.profiles[number]
    if kind is None:
        return []
    return [
        (
            Pick(card.position, request.use, spot, None),
            (request.use, kind.put(mig, spot), shared),
            _warm_worth(card, spot),
        )
        for spot in kind.options(mig, profile)
    ]


def _warm_worth(card: Card, spot: Spot) -> float:
    if any(warm == spot for warm, _ in card.warm):
        return WARM_WORTH
    return -WARM_COST * sum(1 for warm, _ in card.warm if warm.mask & spot.mask)


def capacity(card: Card, request: Request) -> int:
    """How many of the request's slices the card could take now."""
    return _capacity(card, request, (card.use, card.mig, card.shared))


def _capacity(card: Card, request: Request, state: _State) -> int:
    _, mig, shared = state
    number = card.card_type.number
    if request.use is GpuUse.SHARED:
        size = request.wish.shares.get(number)
        return shares_in(FULL_PCT - shared.percent, card.card_type.memory_mib - shared.memory_mib, size)
    profile = request.wish.profiles.get(number)
    return 0 if card.kind is None or profile is None else card.kind.count(mig, profile)


class Finder:
    """One request's hosts, best first."""

    def __init__(self, site: Site, request: Request, stage: int) -> None:
        self._site, self._request, self._stage = site, request, stage
        self._scores: list[Found | None] = [None] * len(site.yard.hosts)
        self._seen = len(site.changes)
        self._heap: list[tuple[Score, int]] = []
        for number in range(len(site.yard.hosts)):
            found = self._scores[number] = site.best_on(number, request, stage)
            if found is not None:
                self._heap.append((found.score, number))
        heapify(self._heap)

    def best(self, hosts: int) -> list[tuple[int, Found]] | None:
        """The best `hosts` hosts with what to put there; None when fewer have a place."""
        self._catch_up()
        chosen: list[tuple[int, Found]] = []
        taken: set[int] = set()
        kept: list[tuple[Score, int]] = []
        while self._heap and len(chosen) < hosts:
            score, number = heappop(self._heap)
            found = self._scores[number]
            if found is None or found.score != score or number in taken:
                continue
            taken.add(number)
            kept.append((score, number))
            chosen.append((number, found))
        for entry in kept:
            heappush(self._heap, entry)
        return chosen if len(chosen) == hosts else None

    def _catch_up(self) -> None:
        changes = self._site.changes
        for number in sorted(set(changes[self._seen :])):
            found = self._site.best_on(number, self._request, self._stage)
            before = self._scores[number]
            self._scores[number] = found
            if found is not None and (before is None or found.score != before.score):
                heappush(self._heap, (found.score, number))
        self._seen = len(changes)
