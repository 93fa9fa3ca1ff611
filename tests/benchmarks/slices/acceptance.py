"""How much of what is asked for can be placed when slices come and go, by the way of choosing places.

Requests for MIG profiles come to H100s one after the other and stay for a random time; one that finds no legal place is
turned away. They ask for as many memory units as there are, on average. Told is the part of the requested memory units
that was placed, after a warm-up. Every way sees the same requests.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush

from slurmext.model.slicing import GpuUse, SliceNeed, SliceNode, SliceSnapshot
from slurmext.policy.slicing.cards import Card, Tenant, Yard
from slurmext.policy.slicing.finder import Request, Site
from slurmext.policy.slicing.gradient import Group, Mix
from slurmext.policy.slicing.kinds import Kind, Spot
from slurmext.policy.slicing.needs import Wish, wish
from slurmext.testing.slicing import gpus

PROFILES = ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")
MIXES = {
    "small": (8, 2, 4, 1, 1, 0),
    "even": (1, 1, 1, 1, 1, 1),
    "big": (1, 1, 2, 4, 2, 2),
}
"""How often each profile is asked for."""
WAYS = ("ours", "first_fit", "spread", "random")
NODES, PER_NODE = 25, 4
LOAD = 1.0
"""Memory units asked for at a time, as a part of those there are."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request and for how long."""

    at: float
    profile: str
    stays: float


def requests_of(mix: str, seed: int, count: int) -> list[Asked]:
    """The requests in order of time; a stay lasts 1 on average."""
    rng = random.Random(seed)
    kind = _kind()
    weights = MIXES[mix]
    total = sum(weights)
    units = sum(w * kind.profiles[kind.number[p]].memory_units for w, p in zip(weights, PROFILES, strict=True)) / total
    rate = LOAD * NODES * PER_NODE * kind.units / units
    now, found = 0.0, list[Asked]()
    for _ in range(count):
        now += rng.expovariate(rate)
        found.append(Asked(now, rng.choices(PROFILES, weights)[0], rng.expovariate(1.0)))
    return found


def _kind() -> Kind:
    kind = Yard(_snapshot()).card_types[0].kind
    assert kind is not None
    return kind


def _snapshot() -> SliceSnapshot:
    names = [f"n{number:03}" for number in range(NODES)]
    return SliceSnapshot(
        nodes=tuple(SliceNode(name=name) for name in names),
        gpus=tuple(gpu for name in names for gpu in gpus(name, "h100", PER_NODE)),
    )


Choice = Callable[[str], "tuple[Card, Spot] | None"]


class Cluster:
    """The cards and one way of choosing."""

    def __init__(self, way: str, mix: str, seed: int) -> None:
        self.yard = Yard(_snapshot())
        self.cards = [card for host in self.yard.hosts for card in host.cards]
        self.kind = _kind()
        self.random = random.Random(seed)
        self.requests: dict[str, Request] = {}
        groups: list[Group] = []
        for profile, weight in zip(PROFILES, MIXES[mix], strict=True):
            asked = wish(SliceNeed(profile=profile), self.yard.card_types)
            assert isinstance(asked, Wish)
            self.requests[profile] = Request(len(self.requests), asked, GpuUse.MIG, 1, 0, 0, (), frozenset())
            parts = self.kind.parts[self.kind.number[profile]]
            groups.append(Group(asked, 1, parts, weight, [(0, 0, weight)]))
        self.site = Site(self.yard, Mix(groups))
        choices: dict[str, Choice] = {
            "ours": self._ours, "first_fit": self._first_fit, "spread": self._spread, "random": self._random,
        }  # fmt: skip
        self.choose, self.ours = choices[way], way == "ours"

    def _ours(self, profile: str) -> tuple[Card, Spot] | None:
        found = self.site.finder(self.requests[profile], 0).best(1)
        if found is None:
            return None
        pick = found[0][1].picks[0]
        return (self.yard.hosts[found[0][0]].cards[pick.card], pick.spot) if pick.spot is not None else None

    def _options(self, profile: str) -> list[tuple[Card, Spot]]:
        number = self.kind.number[profile]
        return [(card, spot) for card in self.cards for spot in self.kind.options(card.mig, number)]

    def _first_fit(self, profile: str) -> tuple[Card, Spot] | None:
        return next(iter(self._options(profile)), None)

    def _spread(self, profile: str) -> tuple[Card, Spot] | None:
        return min(self._options(profile), key=lambda option: option[0].mig.mask.bit_count(), default=None)

    def _random(self, profile: str) -> tuple[Card, Spot] | None:
        options = self._options(profile)
        return self.random.choice(options) if options else None

    def run(self, asked: list[Asked]) -> float:
        """The part of the requested memory units that found a place, in the second half."""
        leaving: list[tuple[float, int]] = []
        there: dict[int, tuple[Card, Tenant]] = {}
        wanted = placed = 0
        for number, request in enumerate(asked):
            while leaving and leaving[0][0] <= request.at:
                card, tenant = there.pop(heappop(leaving)[1])
                card.remove(tenant, warm=self.ours)
                self.site.changed(card.node)
            units = self.kind.profiles[self.kind.number[request.profile]].memory_units
            counts = number * 2 >= len(asked)
            wanted += units * counts
            found = self.choose(request.profile)
            if found is None:
                continue
            placed += units * counts
            card, spot = found
            tenant = Tenant(str(number), spot)
            assert not spot.mask & card.mig.mask, "two on one place"
            card.warm = tuple((other, uuid) for other, uuid in card.warm if not other.mask & spot.mask)
            card.put(tenant)
            self.site.changed(card.node)
            there[number] = card, tenant
            heappush(leaving, (request.at + request.stays, number))
        return placed / wanted


def accepted(way: str, mix: str, seed: int, count: int) -> float:
    """Of one run."""
    return Cluster(way, mix, seed).run(requests_of(mix, seed, count))
