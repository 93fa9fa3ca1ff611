"""Has models brought to nodes: one transfer for each model, planned anew when hosts come, go or are slow.

Fed by what agents say, from their threads, and by a timer; cycles only say what is wanted. Transfers know of each
other: what one has planned on a link the next one does not count on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from slurmext.model.staged_model import ModelEntry
from slurmext.model.topology import Topology
from slurmext.ports import Clock, StageAgents
from slurmext.service.staging.hosts import Place, StageHost, StageHosts
from slurmext.staging.access import Access
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.names import ModelKey
from slurmext.staging.order import Progress, Source, StageOrder
from slurmext.staging.plan.conduct import Conductor, Report
from slurmext.staging.plan.fabric import STORAGE, Assignment, Host, Replica, Request, Storage
from slurmext.staging.transport import Peer

log = logging.getLogger(__name__)

AGAIN_S = 30.0
"""A node that failed is asked again after so long."""
UNREADABLE_S = 2.0
"""A node that has lost shared storage for so long is believed; after two nodes nobody else is tried."""
_TRIES = 2
_CHANGE = 0.2
"""Links are planned with anew when what others use of them changed by this part of them."""


@dataclass(slots=True, eq=False)
class _Transfer:
    entry: ModelEntry
    tier: TierKind
    conductor: Conductor
    targets: set[str]
    storage_lost_s: dict[str, float] = field(default_factory=dict[str, float])
    storage_failed: dict[str, str] = field(default_factory=dict[str, str])
    given: dict[str, Host] = field(default_factory=dict[str, Host])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """Why a node did not get a model that was stored there, and when."""

    at_s: float = 0.0
    why: str = ""
    storage: str = ""

    def holds(self, entry: ModelEntry, now_s: float) -> bool:
        """Whether there is no reason yet to try again."""
        return now_s - self.at_s < AGAIN_S and self.storage == entry.storage


class Conducting:
    """All transfers. `hosts` are the nodes as they told last; `on_failed(node, key, why)` when one does not get it."""

    def __init__(
        self,
        agents: StageAgents,
        clock: Clock,
        hosts: StageHosts,
        *,
        on_failed: Callable[[str, ModelKey, str], None] = lambda _node, _key, _why: None,
    ) -> None:
        self._agents, self._clock, self._hosts = agents, clock, hosts
        self._on_failed = on_failed
        self._lock = threading.RLock()
        self._transfers: dict[Place, _Transfer] = {}
        self._failed: dict[tuple[str, Place], _Failure] = {}
        self._resume: dict[str, dict[Place, ModelEntry]] = {}
        self._topology = Topology()

    @property
    def busy(self) -> bool:
        """Whether anything is on its way."""
        with self._lock:
            return bool(self._transfers)

    def near(self, topology: Topology) -> None:
        """Which nodes are close to each other, where their agents do not know better."""
        self._topology = topology

    def want(
        self, entry: ModelEntry, nodes: Collection[str], tier: TierKind = TierKind.MEMORY, *, at_once: bool = False
    ) -> None:
        """These nodes shall have the model. Those that have it are left alone, and those that failed a moment ago,
        unless somebody asks who may have mended what was wrong (`at_once`).
        """
        now_s = self._clock.now()
        place = entry.key, tier
        with self._lock:
            held = self._hosts.holders(entry.key, entry.fingerprint, tier)
            known = self._hosts.all()
            transfer = self._transfers.get(place)
            if transfer is not None and transfer.entry.fingerprint != entry.fingerprint:
                del self._transfers[place]
                transfer = None
            elif transfer is not None and transfer.entry.storage != entry.storage:
                transfer.entry = entry  # imported again from where it lies now
                transfer.storage_failed.clear()
            under_way: Collection[str] = transfer.targets if transfer is not None else ()
            new = {
                node
                for node in nodes
                if node in known and node not in held and node not in under_way
                and (at_once or not self._failed.get((node, place), _Failure()).holds(entry, now_s))
            }  # fmt: skip
            if not new:
                return
            for node in new:
                self._failed.pop((node, place), None)
            replicas = self._replicas(entry)
            if transfer is None:
                transfer = self._begun(entry, tier, new, replicas)
                self._transfers[place] = transfer
            else:
                transfer.targets |= new
                transfer.conductor.aim(new, self._all_hosts(transfer), replicas)
            log.info("%s to the %s of %s", entry.key, tier, ", ".join(sorted(new)))
            self._hand_out(transfer)

    def told(self, host: StageHost) -> None:
        """An agent said how far its models are."""
        now_s = self._clock.now()
        with self._lock:
            for place, entry in self._resume.pop(host.node, {}).items():
                self.want(entry, [host.node], place[1])
            for (key, tier), transfer in list(self._transfers.items()):
                entry, conductor = transfer.entry, transfer.conductor
                conductor.back(host.node)
                conductor.holds(host.node, complete=host.node in self._hosts.holders(key, entry.fingerprint))
                progress = host.models.get((key, tier))
                if host.node in transfer.targets and progress and progress.fingerprint in {"", entry.fingerprint}:
                    self._follow(transfer, host.node, progress, now_s)
                self._hand_out(transfer)
                self._close_if_over(transfer)

    def greeted(self, node: str) -> None:
        """An agent connected, perhaps another one than before: it knows of no order, serves at another port. What its
        node was to have it gets once it has told what is there.
        """
        with self._lock:
            for transfer in list(self._transfers.values()):
                self._lose(transfer, [node])

    def tick(self) -> list[str]:
        """Notice nodes that went away (returned), and links that others use now."""
        with self._lock:
            gone = self._hosts.gone(self._agents.connected().keys())
            for transfer in list(self._transfers.values()):
                self._see_links(transfer)
                self._lose(transfer, gone)
        return gone

    def failure(self, node: str, key: ModelKey, tier: TierKind = TierKind.MEMORY) -> str:
        """Why the node did not get the model; empty when it did, or may."""
        with self._lock:
            return self._failed.get((node, (key, tier)), _Failure()).why

    def forget(self, key: ModelKey, tier: TierKind, nodes: Collection[str] | None = None) -> None:
        """Bring it to these nodes (None: all) no more."""
        with self._lock:
            for node, places in self._resume.items():
                if nodes is None or node in nodes:
                    places.pop((key, tier), None)
            transfer = self._transfers.get((key, tier))
            if transfer is None:
                return
            for node in transfer.targets & set(transfer.targets if nodes is None else nodes):
                transfer.targets.discard(node)
                transfer.conductor.lost(node)
                self._agents.act(node, "cancel", key, tier)
            self._hand_out(transfer)
            self._close_if_over(transfer)

    # following

    def _follow(self, transfer: _Transfer, node: str, progress: Progress, now_s: float) -> None:
        place = transfer.entry.key, transfer.tier
        if progress.state is StageState.COMPLETE:
            transfer.targets.discard(node)
            transfer.conductor.report(Report(node=node, held=1.0, rate_bps=0.0, complete=True), now_s)
            return
        why = self._unreadable(transfer, node, progress, now_s)
        if progress.state is StageState.FAILED or why:
            why = why or progress.why or "it failed"
            log.warning("%s: %s: %s", transfer.entry.key, node, why)
            self._failed[node, place] = _Failure(at_s=now_s, why=why, storage=transfer.entry.storage)
            transfer.targets.discard(node)
            transfer.conductor.report(Report(node=node, held=0.0, rate_bps=0.0, failed=True), now_s)
            if progress.state is not StageState.FAILED:
                self._agents.act(node, "cancel", *place)
            self._on_failed(node, transfer.entry.key, why)
            if len(transfer.storage_failed) >= _TRIES:
                self._give_up(transfer, why, now_s)
            return
        held = progress.ready_bytes / progress.size if progress.size else 0.0
        report = Report(node=node, held=held, rate_bps=progress.rate_bps, starved=progress.starved)
        transfer.conductor.report(report, now_s)

    def _unreadable(self, transfer: _Transfer, node: str, progress: Progress, now_s: float) -> str:
        """Why shared storage does not give the model to this node; empty while it may."""
        lost = dict(progress.lost or {})
        why = lost.get(STORAGE, "") or ("it is not what was imported" if STORAGE in progress.rejected else "")
        if not why:
            transfer.storage_lost_s.pop(node, None)
            return ""
        if now_s - transfer.storage_lost_s.setdefault(node, now_s) < UNREADABLE_S and STORAGE not in progress.rejected:
            return ""
        transfer.storage_failed[node] = f"{transfer.entry.storage}: {why}"
        return transfer.storage_failed[node]

    def _give_up(self, transfer: _Transfer, why: str, now_s: float) -> None:
        for node in list(transfer.targets):
            failure = _Failure(at_s=now_s, why=why, storage=transfer.entry.storage)
            self._failed[node, (transfer.entry.key, transfer.tier)] = failure
            transfer.targets.discard(node)
            transfer.conductor.report(Report(node=node, held=0.0, rate_bps=0.0, failed=True), now_s)
            self._agents.act(node, "cancel", transfer.entry.key, transfer.tier)
            self._on_failed(node, transfer.entry.key, why)

    def _close_if_over(self, transfer: _Transfer) -> None:
        if not transfer.targets:
            self._transfers.pop((transfer.entry.key, transfer.tier), None)

    def _lose(self, transfer: _Transfer, nodes: Iterable[str]) -> None:
        for node in nodes:
            transfer.conductor.lost(node)
            if node in transfer.targets:
                transfer.targets.discard(node)
                self._resume.setdefault(node, {})[transfer.entry.key, transfer.tier] = transfer.entry
        self._hand_out(transfer)
        self._close_if_over(transfer)

    # planning

    def _begun(
        self, entry: ModelEntry, tier: TierKind, targets: Collection[str], replicas: Iterable[Replica]
    ) -> _Transfer:
        hosts = {node: self._as_host(host, None) for node, host in self._hosts.all().items()}
        read_bps = max((self._hosts.all()[node].storage_bps for node in targets), default=1e10)
        request = Request(
            size_bytes=max(1, entry.size),
            hosts=tuple(hosts.values()),
            replicas=tuple(replicas),
            targets=tuple(sorted(targets)),
            storage=Storage(read_bps=read_bps) if entry.storage else None,
            held=self._parts(entry, tier),
        )
        return _Transfer(entry=entry, tier=tier, conductor=Conductor(request), targets=set(targets), given=hosts)

    def _parts(self, entry: ModelEntry, tier: TierKind) -> dict[str, float]:
        """What nodes have of it from before: a transfer that was broken off is resumed."""
        found = dict[str, float]()
        for node, host in self._hosts.all().items():
            progress = host.models.get((entry.key, tier))
            if progress is not None and progress.fingerprint == entry.fingerprint and progress.size:
                found[node] = progress.ready_bytes / progress.size
        return found

    def _replicas(self, entry: ModelEntry) -> list[Replica]:
        return [Replica(host=node) for node in sorted(self._hosts.holders(entry.key, entry.fingerprint))]

    def _all_hosts(self, transfer: _Transfer) -> list[Host]:
        hosts = [self._as_host(host, transfer) for host in self._hosts.all().values()]
        transfer.given.update({host.name: host for host in hosts if host.name not in transfer.given})
        return hosts

    def _as_host(self, host: StageHost, transfer: _Transfer | None) -> Host:
        tx_others, rx_others = self._leased(host.node, transfer)
        tx_own, rx_own = self._own(host.node, transfer)
        domain = self._domain(host)
        return Host(
            name=host.node,
            tx_bps=host.link_bps,
            rx_bps=host.link_bps,
            tx_used_bps=max(tx_others, host.tx_bps - tx_own),
            rx_used_bps=max(rx_others, host.rx_bps - rx_own),
            tx_cap_bps=host.tx_cap_bps,
            rack=self._topology.racks.get(host.node, domain),
            # Without links of its own within it, a domain is nodes that are near each other, as a rack is.
            domain=domain if host.domain_bps else "",
            domain_bps=host.domain_bps,
        )

    def _domain(self, host: StageHost) -> str:
        return host.domain or self._topology.domains.get(host.node, "")

    def _leased(self, node: str, but: _Transfer | None) -> tuple[float, float]:
        """What other transfers have planned on the node's link: (sending, receiving)."""
        used = {"tx": 0.0, "rx": 0.0}
        for transfer in self._transfers.values():
            if transfer is not but:
                for lease in transfer.conductor.plan.leases:
                    if lease.node == node:
                        used[lease.direction] += lease.rate_bps
        return used["tx"], used["rx"]

    def _own(self, node: str, transfer: _Transfer | None) -> tuple[float, float]:
        used = {"tx": 0.0, "rx": 0.0}
        for lease in transfer.conductor.plan.leases if transfer is not None else ():
            if lease.node == node:
                used[lease.direction] += lease.rate_bps
        return used["tx"], used["rx"]

    def _see_links(self, transfer: _Transfer) -> None:
        for host in self._hosts.all().values():
            now, before = self._as_host(host, transfer), transfer.given.get(host.node)
            if before is None or self._differ(before, now):
                transfer.given[host.node] = now
                transfer.conductor.link(now)

    @staticmethod
    def _differ(before: Host, now: Host) -> bool:
        most = _CHANGE * now.tx_bps
        return (
            abs(before.tx_used_bps - now.tx_used_bps) > most
            or abs(before.rx_used_bps - now.rx_used_bps) > most
            or before.tx_cap_bps != now.tx_cap_bps
            or (before.rack, before.domain) != (now.rack, now.domain)
        )

    def _hand_out(self, transfer: _Transfer) -> None:
        for assignment in transfer.conductor.changes(self._clock.now()):
            if assignment.node in transfer.targets:
                self._agents.stage(assignment.node, self._order(transfer, assignment))

    def _order(self, transfer: _Transfer, assignment: Assignment) -> StageOrder:
        entry = transfer.entry
        return StageOrder(
            key=entry.key,
            fingerprint=entry.fingerprint,
            sources=tuple(
                Source(peer=peer, share=feed.share)
                for feed in assignment.feeds
                if (peer := self._peer(entry, feed.source, assignment.node)) is not None
            ),
            backups=tuple(
                peer for name in assignment.backups if (peer := self._peer(entry, name, assignment.node)) is not None
            ),
            access=access_of(entry),
            tier=transfer.tier,
            storage=Path(entry.storage) if entry.storage else None,
            owner=entry.uid,
        )

    def _peer(self, entry: ModelEntry, name: str, receiver: str) -> Peer | None:
        if name == STORAGE:
            return Peer(node=STORAGE, address=entry.storage)
        host, other = self._hosts.get(name), self._hosts.get(receiver)
        if host is None:
            return None
        within = other is not None and self._domain(host) and self._domain(host) == self._domain(other)
        return Peer(node=name, address=(host.domain_address if within else "") or host.address)


def access_of(entry: ModelEntry) -> Access:
    """Who may read its files on nodes."""
    return Access() if entry.public else Access(uid=entry.uid, gid=entry.gid)
