"""Whose leaving would make a place: on each host the cheapest way to clear what a request needs.

The price of a job says what it costs that it leaves, or that it does not (None). The same search serves jobs that wait
for others on their way out, reclaim, moves, and holding a place for one that has waited long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from slurmext.model.slicing import GpuUse
from slurmext.policy.slicing.cards import FULL_PCT, Card, Host, Tenant
from slurmext.policy.slicing.finder import Pick, Request
from slurmext.policy.slicing.gradient import shares_in
from slurmext.policy.slicing.kinds import Kind, Spot

Price = Callable[[str], "float | None"]
"""What it costs that a job leaves; None when it cannot be asked to."""


@dataclass(frozen=True, slots=True)
class Clearing:
    """Places on one host, who leaves for them, and what that costs."""

    host: int
    cost: float
    picks: tuple[Pick, ...]
    leaving: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Way:
    cost: float
    leaving: frozenset[str]
    pick: Pick
    tenant: Tenant


def clearing(
    number: int, host: Host, request: Request, price: Price, beside: Callable[[str], tuple[int, int]]
) -> Clearing | None:
    """The cheapest way to clear all the request needs on the host; None when those who may leave do not do.

    `beside` has what CPUs and memory a job gives back on the host.
    """
    if request.candidates and host.name not in request.candidates:
        return None
    tenants = {card.position: list(card.tenants) for card in host.cards}
    gone: frozenset[str] = frozenset()
    picks: list[Pick] = []
    total = 0.0
    for _ in range(request.per_node):
        ways = (
            way
            for card in host.cards
            if _usable(card, request)
            for way in _ways(card, request, [t for t in tenants[card.position] if t.hold or t.job not in gone], price)
        )
        best = min(ways, key=lambda way: (way.cost, len(way.leaving), way.pick.card), default=None)
        if best is None:
            return None
        picks.append(best.pick)
        total += best.cost
        gone |= best.leaving
        tenants[best.pick.card].append(best.tenant)
    freed = [beside(job) for job in gone]
    cpus, memory = request.cpus - sum(c for c, _ in freed), request.memory_mib - sum(m for _, m in freed)
    if not host.has(cpus, memory):
        return None
    return Clearing(number, total, tuple(picks), gone)


def _usable(card: Card, request: Request) -> bool:
    known = request.wish.profiles if request.use is GpuUse.MIG else request.wish.shares
    return card.use is request.use and card.stage == 0 and not card.closing and card.card_type.number in known


def _ways(card: Card, request: Request, tenants: Sequence[Tenant], price: Price) -> Iterator[_Way]:
    if request.use is GpuUse.SHARED:
        way = _share_way(card, request, tenants, price)
        if way is not None:
            yield way
    elif card.kind is not None:
        profile = request.wish.profiles[card.card_type.number]
        for spot in card.kind.spots[profile]:
            way = _spot_way(card, card.kind, spot, tenants, price)
            if way is not None:
                yield way


def _spot_way(card: Card, kind: Kind, spot: Spot, tenants: Sequence[Tenant], price: Price) -> _Way | None:
    prices = _prices(tenants, price)
    leaving: set[str] = set()
    for tenant in tenants:
        if tenant.spot is not None and tenant.spot.mask & spot.mask:
            if tenant.hold or prices.get(tenant.job) is None:
                return None
            leaving.add(tenant.job)
    others = sorted((job for job in prices if job not in leaving), key=lambda job: (prices[job], job))
    while True:
        left = [tenant for tenant in tenants if tenant.hold or tenant.job not in leaving]
        if spot in kind.options(card.taken_by(left)[0], spot.profile):
            cost = sum(prices[job] for job in leaving)
            return _Way(
                cost, frozenset(leaving), Pick(card.position, GpuUse.MIG, spot, None), Tenant("", spot, hold=True)
            )
        if not others:
            return None
        leaving.add(others.pop(0))


def _share_way(card: Card, request: Request, tenants: Sequence[Tenant], price: Price) -> _Way | None:
    size = request.wish.shares[card.card_type.number]
    prices = _prices(tenants, price)
    order = sorted(prices, key=lambda job: (prices[job], job))

    def fits(leaving: set[str]) -> bool:
        left = [tenant for tenant in tenants if tenant.hold or tenant.job not in leaving]
        shared = card.taken_by(left)[1]
        return shares_in(FULL_PCT - shared.percent, card.card_type.memory_mib - shared.memory_mib, size) > 0

    leaving: set[str] = set()
    while not fits(leaving):
        if not order:
            return None
        leaving.add(order.pop(0))
    for job in sorted(leaving, key=lambda job: (-prices[job], job)):
        if fits(leaving - {job}):
            leaving.discard(job)
    tenant = Tenant("", None, size.percent, size.memory_mib, hold=True)
    cost = sum(prices[job] for job in leaving)
    return _Way(cost, frozenset(leaving), Pick(card.position, GpuUse.SHARED, None, size), tenant)


def _prices(tenants: Sequence[Tenant], price: Price) -> dict[str, float]:
    """Of those who may leave."""
    found: dict[str, float] = {}
    for job in {tenant.job for tenant in tenants if not tenant.hold and tenant.job}:
        cost = price(job)
        if cost is not None:
            found[job] = cost
    return found
