"""Follows one transfer and plans again: when a host is lost, comes back, or gets less than its link should give.

Whoever conducts (slurmextd, a test) feeds in what agents report and hands out the assignments that changed. Between
two reports the agents help themselves: a receiver that loses its source turns to the source's own source at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from slurmext.staging.plan.fabric import Assignment, Host, MulticastPlan, Replica, Request
from slurmext.staging.plan.multicast import plan_multicast

SLOW: Final = 0.5
"""A link that gives less than this part of what was planned is slow."""
SLOW_S: Final = 0.5
"""How long it must have been slow."""
SETTLE_S: Final = 1.0
"""How long a change is left alone before the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a target says: the part (0..1) it has, bits per second now, whether its sources have nothing new for it."""

    node: str
    held: float
    rate_bps: float
    starved: bool = False
    complete: bool = False
    failed: bool = False


class Conductor:
    """One model on its way to some hosts. Times are any clock's seconds that the caller passes in."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._hosts = {host.name: host for host in request.hosts}
        self._away: dict[str, Host] = {}
        self._replicas = {replica.host: replica for replica in request.replicas}
        self._held: dict[str, float] = {}
        self._slow_since: dict[str, float] = {}
        self._suspects: dict[str, tuple[str, float]] = {}
        self._changed_s: dict[str, float] = {}
        self._failed: set[str] = set()
        self._stale = True
        self._plan = MulticastPlan(assignments=(), unserved={}, leases=(), estimate_s=0.0)

    @property
    def plan(self) -> MulticastPlan:
        """The plan in force."""
        return self._plan

    @property
    def complete(self) -> bool:
        """Whether every target that is connected has the model or failed for good."""
        away = self._away.keys() | self._failed
        return all(name in self._replicas or name in away for name in self._request.targets)

    @property
    def waiting(self) -> tuple[str, ...]:
        """Targets that do not have the model yet, in order."""
        return tuple(sorted(name for name in self._request.targets if name not in self._replicas))

    def lost(self, node: str) -> None:
        """A host is gone: it is neither planned for nor used until it is back."""
        if host := self._hosts.pop(node, None):
            self._away[node] = host
            self._replicas.pop(node, None)
            self._stale = True

    def back(self, node: str) -> None:
        """A host is here again."""
        if host := self._away.pop(node, None):
            self._hosts[node] = host
            self._stale = True

    def holds(self, node: str, *, complete: bool) -> None:
        """Whether a host has all of it now. It may have had to give it up since it was planned as a source."""
        if complete and node in self._hosts and node not in self._replicas:
            self._replicas[node] = Replica(host=node)
            self._stale = True
        elif not complete and self._replicas.pop(node, None):
            self._stale = True

    def aim(self, targets: Iterable[str], hosts: Iterable[Host], replicas: Iterable[Replica]) -> None:
        """More targets, and what hosts and replicas there are besides the known ones; those that failed try again."""
        more = [host for host in hosts if host.name not in self._hosts]
        self._hosts.update({host.name: host for host in more})
        for host in more:
            self._away.pop(host.name, None)
        known = {host.name for host in self._request.hosts}
        self._request = replace(
            self._request,
            hosts=(*self._request.hosts, *(host for host in more if host.name not in known)),
            targets=tuple(dict.fromkeys((*self._request.targets, *targets))),
        )
        self._failed.difference_update(targets)
        for replica in replicas:
            self._replicas.setdefault(replica.host, replica)
        self._stale = True

    def link(self, host: Host) -> None:
        """What is known of a host's links changed."""
        if host.name in self._hosts and self._hosts[host.name] != host:
            self._hosts[host.name] = host
            self._stale = True

    def report(self, report: Report, now_s: float) -> None:
        """What a target says of itself."""
        if report.node not in self._hosts:
            return
        if report.failed:
            # Those who hang on it need another source.
            self._stale = self._stale or report.node not in self._failed
            self._failed.add(report.node)
            return
        if report.complete:
            # Whoever is fed by it goes on as before; it only needs a new plan for those who are stuck.
            self._replicas.setdefault(report.node, Replica(host=report.node))
            self._held.pop(report.node, None)
            self._slow_since.pop(report.node, None)
            return
        self._held[report.node] = report.held
        self._watch(report, now_s)

    def changes(self, now_s: float) -> tuple[Assignment, ...]:
        """Assignments to hand out now: those that differ from the plan in force. Plans again when there is reason."""
        if not self._stale:
            return ()
        self._stale = False
        before = {one.node: one for one in self._plan.assignments}
        current: Mapping[str, tuple[str, ...]] = {
            name: tuple(feed.source for feed in one.feeds) for name, one in before.items()
        }
        self._plan = plan_multicast(
            replace(
                self._request,
                hosts=tuple(self._hosts.values()),
                replicas=tuple(self._replicas.values()),
                targets=tuple(name for name in self._request.targets if name not in self._failed),
                held=dict(self._held),
                current=current,
            )
        )
        changed = tuple(one for one in self._plan.assignments if _differs(before.get(one.node), one))
        for one in changed:
            self._changed_s[one.node] = now_s
            self._slow_since.pop(one.node, None)
        return changed

    def _watch(self, report: Report, now_s: float) -> None:
        planned = next((one for one in self._plan.assignments if one.node == report.node), None)
        if planned is None:
            return
        node = report.node
        if node in self._suspects and report.rate_bps > SLOW * self._original(node).rx_free_bps:
            # Fast from another source: it was the source's way out that was slow, not this one's way in.
            source, rate = self._suspects.pop(node)
            self._hosts[node] = self._original(node)
            if source in self._hosts:
                self._hosts[source] = replace(self._hosts[source], tx_bps=rate, tx_used_bps=0.0)
            self._stale = True
            return
        # Nothing at all is a link that begins, or a dead source: the receiver itself turns away from that one.
        slow = not report.starved and 0 < report.rate_bps < SLOW * planned.rate_bps
        if not slow or now_s - self._changed_s.get(node, now_s) < SETTLE_S:
            self._slow_since.pop(node, None)
            return
        if now_s - self._slow_since.setdefault(node, now_s) < SLOW_S:
            return
        rate = max(report.rate_bps, 1.0)
        self._suspects[node] = planned.feeds[0].source, rate
        # A link that is slow in is taken to be slow out until it shows otherwise.
        self._hosts[node] = replace(self._hosts[node], rx_bps=rate, tx_bps=rate, rx_used_bps=0.0, tx_used_bps=0.0)
        self._slow_since.pop(node, None)
        self._stale = True

    def _original(self, node: str) -> Host:
        return next(host for host in self._request.hosts if host.name == node)


def _differs(before: Assignment | None, after: Assignment) -> bool:
    if before is None:
        return True
    old = [(feed.source, round(feed.share, 2)) for feed in before.feeds]
    return old != [(feed.source, round(feed.share, 2)) for feed in after.feeds] or before.backups != after.backups
