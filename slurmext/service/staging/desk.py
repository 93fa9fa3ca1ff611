"""Models and jobs: which nodes shall have what, what jobs are told, and what users ask of models on nodes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from slurmext.errors import SlurmextError
from slurmext.model.cluster import ClusterView, JobRecord
from slurmext.model.job import JobState
from slurmext.model.staged_model import ADMIN, ModelEntry, ModelReplica
from slurmext.model.topology import Topology
from slurmext.ports import Clock, StageAgents, Store
from slurmext.service.models.quotas import Quotas
from slurmext.service.staging.ahead import Ahead, Decided, Start
from slurmext.service.staging.conducting import Conducting
from slurmext.service.staging.hosts import StageHost, StageHosts, host_of
from slurmext.service.staging.jobs import JobModels, Wanted
from slurmext.service.staging.keeping import Keeping
from slurmext.service.staging.needs import ModelNeed
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.names import ModelKey
from slurmext.staging.preload import references_in

log = logging.getLogger(__name__)

_SAVED_EVERY_S = 5.0
"""How far models are is written down so often; what is complete or failed, at once."""

_Warm = Callable[[Sequence[ModelEntry]], tuple[str, ...]]


@dataclass(slots=True, eq=False)
class _Saved:
    state: object = None
    at_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A prolog that waits for its job's models."""

    node: str
    job_id: int
    uid: int
    wanted: tuple[Wanted, ...] = field(default=())


class StageDesk:
    """Asked by cycles, by agents' events, by users' requests and by a timer, each from a thread of its own."""

    def __init__(
        self,
        *,
        store: Store,
        agents: StageAgents,
        clock: Clock,
        quotas: Quotas | None = None,
        ahead_s: float = 3600.0,
        topology: Callable[[], Topology] = Topology,
    ) -> None:
        self._store, self._agents, self._clock = store, agents, clock
        self._quotas, self._ahead = quotas or Quotas(), Ahead(ahead_s=ahead_s)
        self._hosts, self._topology = StageHosts(), topology
        self._jobs = JobModels(store.models, clock)
        self._lock = threading.RLock()
        self._conducting = Conducting(agents, clock, self._hosts, on_failed=self._failed)
        self._waiting: dict[tuple[str, int], _Waiting] = {}
        self._saved: dict[str, _Saved] = {}
        self._keeping = Keeping(
            store.models, agents, clock, self._hosts,
            pinned=lambda entry: self._conducting.want(entry, entry.pinned_nodes),
        )  # fmt: skip

    # cycles

    def needs(self, view: ClusterView) -> Mapping[str, ModelNeed]:
        """Of the jobs that wait for models, by their ids in Slurm."""
        warm = self._warm_once()
        return {
            record.slurm_id: self._need(record, warm) for record in view.jobs
            if record.state is JobState.PENDING and _asked(record)
        }  # fmt: skip

    def run(self, decided: Decided, view: ClusterView) -> Mapping[str, str]:
        """Have models brought to nodes where jobs are about to start or likely to; what is to be said of each job."""
        self._keeping.keep()
        if self._keeping.registered():
            self._conducting.near(self._topology())
        wanted = {
            record.slurm_id: self._wanted(record) for record in view.jobs
            if record.state is JobState.PENDING and record.uid is not None and _asked(record)
        }  # fmt: skip
        waiting = [record for record in view.jobs if record.slurm_id in wanted]
        said = dict[str, str]()
        promised, rooms = dict[str, dict[ModelKey, int]](), self.rooms(TierKind.MEMORY)
        warm = self._warm_once()
        starts = self._ahead.starts(waiting, decided, lambda record: warm(_entries(wanted[record.slurm_id])))
        for start in starts:
            job_id, entries = start.record.slurm_id, _entries(wanted[start.record.slurm_id])
            if start.sure:
                self._tell_job(start.record, wanted[job_id], start.nodes)
            for entry in entries:
                nodes = _beside(entry, start, promised, rooms)
                self._conducting.want(entry, self._with_room(entry, nodes))
            said[job_id] = "; ".join(filter(None, (self._sentence(entry, start.nodes) for entry in entries)))
        return said

    def _wanted(self, record: JobRecord) -> tuple[Wanted, ...]:
        if record.uid is None:
            return ()
        return self._jobs.of(record.raw_id or record.slurm_id, record.uid, _asked(record))

    def _need(self, record: JobRecord, warm: _Warm) -> ModelNeed:
        wanted = self._wanted(record)
        why = "; ".join(each.why for each in wanted if each.entry is None)
        return ModelNeed(why=why, warm=warm(_entries(wanted)))

    def _warm_once(self) -> _Warm:
        """As `_warm`, looked up once for all jobs that want the same: there may be thousands of them, and of nodes."""
        known = dict[tuple[ModelKey, ...], tuple[str, ...]]()

        def warm(entries: Sequence[ModelEntry]) -> tuple[str, ...]:
            keys = tuple(entry.key for entry in entries)
            if keys not in known:
                known[keys] = self._warm(entries)
            return known[keys]

        return warm

    def _warm(self, entries: Sequence[ModelEntry]) -> tuple[str, ...]:
        """Nodes that hold all of these models, or if there is none those that have most of them."""
        if not entries:
            return ()
        total = sum(entry.size for entry in entries) or 1
        held = dict[str, int]()
        for node, host in self._hosts.all().items():
            for entry in entries:
                progress = host.models.get((entry.key, TierKind.MEMORY))
                if progress is not None and progress.fingerprint == entry.fingerprint:
                    held[node] = held.get(node, 0) + progress.ready_bytes
        whole = tuple(sorted(node for node, ready in held.items() if ready >= total))
        return whole or tuple(sorted(node for node, ready in held.items() if 2 * ready >= total))

    def _tell_job(self, record: JobRecord, wanted: Sequence[Wanted], nodes: Collection[str]) -> None:
        job_id = record.raw_id or record.slurm_id
        if not job_id.isdecimal():
            return
        for node in nodes:
            self._agents.preload(node, int(job_id), [each.preload() for each in wanted])

    def _sentence(self, entry: ModelEntry, nodes: Collection[str]) -> str:
        """How far a model is on the nodes that it is brought to."""
        ready, missing, why = list[str](), list[str](), ""
        for node in sorted(nodes):
            host = self._hosts.get(node)
            progress = host.models.get((entry.key, TierKind.MEMORY)) if host is not None else None
            if progress is not None and progress.state is StageState.COMPLETE:
                ready.append(node)
                continue
            percent = 100 * progress.ready_bytes // progress.size if progress is not None and progress.size else 0
            missing.append(f"{node} {percent} %")
            why = why or self._conducting.failure(node, entry.key)
        if not missing:
            return f"{entry.key} is on {', '.join(ready)}" if ready else ""
        on = f"is on {', '.join(ready)} and " if ready else ""
        return f"{entry.key} {on}comes to {', '.join(missing)}{f' ({why})' if why else ''}"

    # room

    def _with_room(self, entry: ModelEntry, nodes: Collection[str]) -> list[str]:
        """Nodes on which the model's owner may have it."""
        if self._quotas.node_bytes is None or entry.uid == 0:
            return list(nodes)
        usage = self._store.models.usage(entry.uid)
        return [
            node for node in nodes
            if self._there(node, entry) or not self._quotas.over_on(entry.uid, usage, node, entry.size)
        ]  # fmt: skip

    def _there(self, node: str, entry: ModelEntry) -> bool:
        host = self._hosts.get(node)
        return host is not None and (entry.key, TierKind.MEMORY) in host.models

    # agents

    def greeted(self, node: str, detail: Mapping[str, object]) -> None:
        """An agent connected."""
        self._keeping.forget_node(node)
        self._conducting.greeted(node)
        self.said(node, detail)

    def said(self, node: str, detail: Mapping[str, object]) -> bool:
        """An agent tells of its node. True when the next cycle should see it. Raises StoreUnavailable."""
        host = host_of(node, self._agents.connected().get(node, "127.0.0.1"), detail)
        if host is None:
            return False
        self._hosts.put(host)
        self._conducting.told(host)
        return self._save(host)

    def asked(self, node: str, job_id: int, uid: int, references: Sequence[str]) -> None:
        """A prolog waits for models. Raises StoreUnavailable."""
        wanted = self._jobs.of(str(job_id), uid, references_in(",".join(references)))
        waiting = _Waiting(node=node, job_id=job_id, uid=uid, wanted=wanted)
        with self._lock:
            self._waiting[node, job_id] = waiting
        refused = dict[ModelKey, str]()
        for entry in (each.entry for each in wanted if each.entry is not None):
            if self._with_room(entry, [node]):
                self._conducting.want(entry, [node])
                if why := self._conducting.failure(node, entry.key):
                    refused[entry.key] = why
            else:
                refused[entry.key] = f"{entry.owner}'s models may not take more of this node's memory"
        self._answer(waiting, refused)

    def left(self, node: str, job_id: int) -> None:
        """A job has left a node."""
        with self._lock:
            self._waiting.pop((node, job_id), None)

    def _answer(self, waiting: _Waiting, refused: Mapping[ModelKey, str]) -> None:
        models = [
            each.preload(refused.get(each.entry.key, "") if each.entry is not None else "") for each in waiting.wanted
        ]
        self._agents.preload(waiting.node, waiting.job_id, models)

    def _failed(self, node: str, key: ModelKey, why: str) -> None:
        with self._lock:
            waiting = [each for (where, _), each in self._waiting.items() if where == node]
        for each in waiting:
            if any(one.entry is not None and one.entry.key == key for one in each.wanted):
                self._answer(each, {key: why})

    def _save(self, host: StageHost) -> bool:
        now_s = self._clock.now()
        whys = {
            place: one.why or (one.state is StageState.WAITING and self._conducting.failure(host.node, *place)) or ""
            for place, one in host.models.items()
        }
        state = tuple((place, one.state, one.fingerprint, one.pins, whys[place]) for place, one in host.models.items())
        saved = self._saved.setdefault(host.node, _Saved())
        changed = state != saved.state
        if not changed and now_s - saved.at_s < _SAVED_EVERY_S:
            return False
        self._store.models.put_replicas(
            host.node,
            [
                ModelReplica(
                    node=host.node, tier=one.tier, key=one.key, fingerprint=one.fingerprint, state=one.state,
                    ready_bytes=one.ready_bytes, size=one.size, pins=one.pins, at_s=now_s, why=whys[place][:500],
                )
                for place, one in host.models.items()
            ],
        )  # fmt: skip
        saved.state, saved.at_s = state, now_s
        return changed

    def tick(self) -> None:
        """From a timer: notice agents that went away, links that got busy."""
        for node in self._conducting.tick():
            self._saved.pop(node, None)
            self._keeping.forget_node(node)
            try:
                self._store.models.node_gone(node)
            except SlurmextError as error:
                log.warning("%s: %s", node, error)

    # users: what service.models asks of a desk

    def nodes(self) -> Collection[str]:
        """Nodes whose agents are connected."""
        return self._agents.connected().keys()

    def rooms(self, tier: TierKind) -> Mapping[str, int]:
        """Bytes that models may take in this tier, by node."""
        return {node: host.room[tier][1] for node, host in self._hosts.all().items() if tier in host.room}

    def wanted(self, key: ModelKey, nodes: Collection[str], tier: TierKind, by: str) -> None:
        """These nodes shall have the model."""
        self.changed()
        entry = self._keeping.registered().get(key)
        if entry is not None:
            log.info("%s wants %s on %s", by, key, ", ".join(sorted(nodes)))
            self._conducting.want(entry, nodes, tier, at_once=True)

    def evict(self, key: ModelKey, nodes: Collection[str], tier: TierKind) -> Collection[str]:
        """Have it removed there, unless a job there uses it; returns the nodes that were told."""
        self._conducting.forget(key, tier, nodes)
        entry = self._keeping.registered().get(key)
        for node in nodes:
            if entry is None or node not in entry.pinned_nodes:  # a pin taken back a moment ago
                self._agents.act(node, "unpin", key, tier, ADMIN)
        return [node for node in nodes if self._agents.act(node, "evict", key, tier)]

    def verify(self, key: ModelKey, nodes: Collection[str]) -> Collection[str]:
        """Have every byte of it checked there; returns the nodes that were told."""
        told = set[str]()
        for node in nodes:
            host = self._hosts.get(node)
            tiers = {tier for held, tier in (host.models if host is not None else ()) if held == key}
            told |= {node for tier in tiers if self._agents.act(node, "recheck", key, tier)}
        return sorted(told)

    def changed(self) -> None:
        """Pins or permissions changed: look again soon."""
        self._jobs.forget_answers()
        self._keeping.forget_entries()


def _beside(
    entry: ModelEntry, start: Start, promised: dict[str, dict[ModelKey, int]], rooms: Mapping[str, int]
) -> list[str]:
    """Nodes of the start whose pool has room for the model beside those of the starts before: models of jobs that only
    may start there would else drive each other out, again and again.
    """
    found = list[str]()
    for node in start.nodes:
        taken = promised.setdefault(node, {})
        others = sum(size for key, size in taken.items() if key != entry.key)
        if start.sure or node not in rooms or others + entry.size <= rooms[node]:
            taken[entry.key] = entry.size
            found.append(node)
    return found


def _entries(wanted: Sequence[Wanted]) -> list[ModelEntry]:
    return [each.entry for each in wanted if each.entry is not None]


def _asked(record: JobRecord) -> tuple[str, ...]:
    return record.annotation.preload if record.annotation is not None else ()
