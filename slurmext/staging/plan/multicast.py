"""The multicast plan: every target takes the model from the best source left, and becomes a source itself.

Links are full duplex and a host relays while it receives, so in a chain each host receives once and sends once, and N
hosts take about as long as one: size/rate + (N - 1) * chunk/rate. Which tree is best over unequal links is NP-hard;
this one is greedy, and good because of its order: hosts that can pass on much come first, so a slow link has only
equally slow ones behind it, and hosts of one rack are neighbours, so a rack's uplink is crossed once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from slurmext.staging.plan.fabric import LEAST_SHARE, STORAGE, Assignment, Feed, Host, Lease, MulticastPlan, Request

_ENOUGH: Final = 0.95
"""A single source that gives this part of what several would give is left single."""
_LOCAL: Final = 0.9
"""So much slower a source may be when it is in the same rack."""
_WORTH_KEEPING: Final = 0.8
"""So much slower the present source may be than the best before a target is told to change."""
_MOST_FEEDS: Final = 4
_LOOKED_AT: Final = 6
_MOST_BACKUPS: Final = 8
_LEAST_BPS: Final = 1.0
_LEAST_LEFT: Final = 0.01
"""A source with less than this part of its link left is not used for another target."""
_PIPELINE: Final = 0.1
"""When the pipeline takes more than this part of the time, shorter chains are tried."""


@dataclass(slots=True)
class _Source:
    """A host as a source: what it can still send, how fast it has the model itself, and what it hangs on."""

    host: Host
    tx_left: float
    arrival: float
    depth: int
    path: tuple[str, ...]
    per_feed: float = math.inf
    version: int = 0
    domain_fed: bool = False

    @property
    def offer(self) -> float:
        return min(self.tx_left, self.arrival, self.per_feed)


def plan_multicast(request: Request) -> MulticastPlan:
    """Who sends what to whom. Total and deterministic; the order of what is in the request does not matter."""
    best = _planned(request, 1)
    if not best.assignments:
        return best
    depth = max(assignment.depth for assignment in best.assignments)
    slowest = min(assignment.rate_bps for assignment in best.assignments)
    if (depth - 1) * request.chunk_bytes * 8 / slowest > _PIPELINE * best.estimate_s:
        for branches in (2, 4, 8):
            other = _planned(request, branches)
            if other.estimate_s >= best.estimate_s:
                break
            best = other
    return best


def _planned(request: Request, branches: int) -> MulticastPlan:
    work = _Work(request, branches)
    for host in work.order():
        work.serve(host)
    return work.plan()


class _Work:
    def __init__(self, request: Request, branches: int) -> None:
        self._request = request
        hosts = {host.name: host for host in request.hosts}
        self._hosts = hosts
        self._racks_up = {rack.name: rack.up_bps for rack in request.racks}
        self._racks_down = {rack.name: rack.down_bps for rack in request.racks}
        self._least_up = {rack.name: rack.up_bps * LEAST_SHARE for rack in request.racks}
        self._least_down = {rack.name: rack.down_bps * LEAST_SHARE for rack in request.racks}
        self._sources: dict[str, _Source] = {}
        self._heap: list[tuple[float, int, str, int]] = []
        self._by_rack: dict[str, list[tuple[float, int, str, int]]] = {}
        self._by_domain: dict[str, list[str]] = {}
        self._assignments: list[Assignment] = []
        self._unserved: dict[str, str] = {}
        self._rx_used: dict[str, float] = {}
        self._tx_used: dict[str, float] = {}
        held = {replica.host for replica in request.replicas}
        self._targets = sorted(set(request.targets) - held)
        for name in self._targets:
            if name not in hosts:
                self._unserved[name] = "not connected"
        for replica in sorted(request.replicas, key=lambda one: one.host):
            if host := hosts.get(replica.host):
                arrival = math.inf if replica.read_bps is None else max(replica.read_bps, _LEAST_BPS)
                tx = host.tx_free_bps
                self._open(_Source(host, tx, arrival, 0, (), tx / branches))
        self._roots = sorted(self._sources)
        # Storage is read only when no host has the model, and then by one host, which the others hang on.
        if request.storage is not None and not self._sources:
            rate = request.storage.read_bps
            place = Host(name=STORAGE, tx_bps=rate, rx_bps=rate, rack="", domain="")
            self._open(_Source(place, rate, rate, 0, ()))

    def order(self) -> Iterator[Host]:
        """Targets in the order of serving: those who can pass on most first, one of each domain before the others."""
        ready = [self._hosts[name] for name in self._targets if name in self._hosts]
        ready.sort(key=self._rank)
        seen: set[str] = {source.host.domain for source in self._sources.values()} - {""}
        heads: list[Host] = []
        rest: list[Host] = []
        for host in ready:
            first = not host.domain or host.domain not in seen
            (heads if first else rest).append(host)
            seen.add(host.domain)
        yield from heads
        yield from rest

    def _rank(self, host: Host) -> tuple[object, ...]:
        through = max(_LEAST_BPS, min(host.rx_free_bps, host.tx_free_bps))
        held = self._request.held.get(host.name, 0.0)
        # Rates that differ by less than a fifth count as equal; what a host already has it can pass on at once.
        return (-round(4 * math.log2(through)), -round(host.rx_free_bps), host.rack, -round(4 * held), host.name)

    def serve(self, host: Host) -> None:
        if neighbour := self._in_domain(host):
            rate = min(host.domain_bps, neighbour.arrival)
            neighbour.domain_fed = True
            self._assign(host, [(neighbour, rate)], rate, over_nic=False)
            return
        chosen, rate = self._best(host)
        if not chosen:
            self._unserved[host.name] = "no host that is connected has the model"
            return
        self._assign(host, chosen, rate, over_nic=True)

    def plan(self) -> MulticastPlan:
        bits = self._request.size_bytes * 8
        chunk = min(self._request.chunk_bytes * 8, bits)
        estimate = 0.0
        for assignment in self._assignments:
            left = bits * (1 - min(1.0, self._request.held.get(assignment.node, 0.0)))
            if left:
                estimate = max(estimate, (left + (assignment.depth - 1) * chunk) / assignment.rate_bps)
        leases = [Lease(node=name, direction="tx", rate_bps=rate) for name, rate in sorted(self._tx_used.items())]
        leases += [Lease(node=name, direction="rx", rate_bps=rate) for name, rate in sorted(self._rx_used.items())]
        return MulticastPlan(
            assignments=tuple(self._assignments), unserved=self._unserved, leases=tuple(leases), estimate_s=estimate
        )

    def _in_domain(self, host: Host) -> _Source | None:
        if not host.domain or host.domain_bps <= 0:
            return None
        members = [self._sources[name] for name in self._by_domain.get(host.domain, ())]
        # The newest member that feeds nobody: a chain within the domain.
        return next((member for member in reversed(members) if not member.domain_fed), None)

    def _best(self, host: Host) -> tuple[list[tuple[_Source, float]], float]:
        wanted = host.rx_free_bps
        offers = sorted(
            ((self._link(source, host), source) for source in self._candidates(host)),
            key=lambda one: (-min(one[0], wanted), one[1].host.rack != host.rack, one[1].depth, one[1].host.name),
        )
        offers = [(rate, source) for rate, source in offers if rate > 0]
        if not offers:
            return [], 0.0
        first_rate, first = offers[0]
        for rate, source in offers:
            if source.host.rack == host.rack and min(rate, wanted) >= _LOCAL * min(first_rate, wanted):
                first_rate, first = rate, source
                break
        for rate, source in offers:
            kept = source.host.name in self._request.current.get(host.name, ())
            if kept and min(rate, wanted) >= _WORTH_KEEPING * min(first_rate, wanted):
                first_rate, first = rate, source
                break
        chosen = [(first, first_rate)]
        total = min(wanted, first_rate)
        for rate, source in offers:
            if total >= _ENOUGH * wanted or len(chosen) == _MOST_FEEDS:
                break
            # A stripe flows no faster than its source gets the model: the slowest source's arrival limits them all.
            arrival = min(source.arrival, *(one.arrival for one, _ in chosen))
            more = min(wanted, arrival, rate + sum(part for _, part in chosen))
            if source is not first and more * _ENOUGH > total:
                chosen.append((source, rate))
                total = more
        return chosen, total

    def _candidates(self, host: Host) -> Iterable[_Source]:
        found = {source.host.name: source for source in self._top(self._heap)}
        found |= {source.host.name: source for source in self._top(self._by_rack.get(host.rack, []))}
        for name in self._request.current.get(host.name, ()):
            if (source := self._sources.get(name)) is not None:
                found[name] = source
        return found.values()

    def _top(self, heap: list[tuple[float, int, str, int]]) -> list[_Source]:
        found: list[_Source] = []
        kept: list[tuple[float, int, str, int]] = []
        while heap and len(found) < _LOOKED_AT:
            entry = heappop(heap)
            source = self._sources[entry[2]]
            if source.version == entry[3]:
                found.append(source)
                kept.append(entry)
        for entry in kept:
            heappush(heap, entry)
        return found

    def _link(self, source: _Source, host: Host) -> float:
        rate = source.offer
        if source.host.rack != host.rack and source.host.name != STORAGE:
            rate = min(rate, self._racks_up.get(source.host.rack, math.inf),
                       self._racks_down.get(host.rack, math.inf))  # fmt: skip
        return rate

    def _assign(self, host: Host, chosen: list[tuple[_Source, float]], rate: float, *, over_nic: bool) -> None:
        rate = max(rate, _LEAST_BPS)
        offered = sum(part for _, part in chosen)
        feeds: list[Feed] = []
        for source, part in chosen:
            share = part / offered
            used = share * rate
            feeds.append(Feed(source=source.host.name, share=share, rate_bps=used))
            if source.host.name == STORAGE:
                source.tx_left = 0.0  # one reader: it is read once
                self._push(source)
            elif over_nic:
                self._use(source, host, used)
        if over_nic:
            self._rx_used[host.name] = rate
        depth = 1 + max(source.depth for source, _ in chosen)
        path = (chosen[0][0].host.name, *chosen[0][0].path)[: _MOST_BACKUPS + 1]
        named = {feed.source for feed in feeds}
        backups = [name for name in (*path, *self._roots[:_MOST_BACKUPS]) if name not in named and name != host.name]
        self._assignments.append(
            Assignment(
                node=host.name,
                feeds=tuple(sorted(feeds, key=lambda feed: (-feed.share, feed.source))),
                backups=tuple(dict.fromkeys(backups))[:_MOST_BACKUPS],
                rate_bps=rate,
                depth=depth,
            )
        )
        # What has a part already can pass that part on however slowly the rest arrives; the rest decides the time.
        self._open(_Source(host, host.tx_free_bps, rate, depth, path))

    def _use(self, source: _Source, host: Host, rate: float) -> None:
        source.tx_left = max(0.0, source.tx_left - rate)
        if source.tx_left < _LEAST_LEFT * source.host.tx_bps:
            source.tx_left = 0.0
        self._tx_used[source.host.name] = self._tx_used.get(source.host.name, 0.0) + rate
        if source.host.rack != host.rack:
            for racks, least, name in (
                (self._racks_up, self._least_up, source.host.rack),
                (self._racks_down, self._least_down, host.rack),
            ):
                if name in racks:
                    racks[name] = max(least[name], racks[name] - rate)
        self._push(source)

    def _open(self, source: _Source) -> None:
        self._sources[source.host.name] = source
        if source.host.domain:
            self._by_domain.setdefault(source.host.domain, []).append(source.host.name)
        self._push(source)

    def _push(self, source: _Source) -> None:
        source.version += 1
        if source.offer > 0:
            entry = (-source.offer, source.depth, source.host.name, source.version)
            heappush(self._heap, entry)
            heappush(self._by_rack.setdefault(source.host.rack, []), entry)
