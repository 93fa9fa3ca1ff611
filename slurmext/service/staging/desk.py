"""Models and jobs: which nodes shall have what, what jobs are told, and what users ask of models on nodes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from slurmext.errors import SlurmextError
from slurmext.model.cluster import ClusterView, JobRecord
from slurmext.model.job import Job, JobState
from slurmext.model.plan import Plan
from slurmext.model.snapshot import Snapshot
from slurmext.model.staged_model import ADMIN, ModelEntry, ModelReplica
from slurmext.policy.staging.likely import likely_nodes
from slurmext.ports import Clock, StageAgents, Store
from slurmext.service.models.quotas import Quotas
from slurmext.service.staging.conducting import Conducting, access_of
from slurmext.service.staging.hosts import StageHost, StageHosts, host_of
from slurmext.service.staging.jobs import JobModels, Wanted
from slurmext.service.staging.needs import ModelNeed
from slurmext.staging.access import Access
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.names import ModelKey
from slurmext.staging.order import Progress, Source, StageOrder
from slurmext.staging.preload import Registered, references_in

log = logging.getLogger(__name__)

_SAVED_EVERY_S = 5.0
"""How far models are is written down so often; what is complete or failed, at once."""
_ENTRIES_S = 2.0
_MOST_AHEAD = 32
"""Waiting jobs whose models are brought to nodes before they are planned."""


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
        self, *, store: Store, agents: StageAgents, clock: Clock, quotas: Quotas | None = None, ahead_s: float = 3600.0
    ) -> None:
        self._store, self._agents, self._clock = store, agents, clock
        self._quotas, self._ahead_s = quotas or Quotas(), ahead_s
        self._hosts = StageHosts()
        self._jobs = JobModels(store.models, clock)
        self._lock = threading.RLock()
        self._conducting = Conducting(agents, clock, self._hosts, on_failed=self._failed)
        self._waiting: dict[tuple[str, int], _Waiting] = {}
        self._saved: dict[str, _Saved] = {}
        self._entries_s = 0.0
        self._entries: dict[ModelKey, ModelEntry] = {}
        self._access: dict[ModelKey, Access] = {}
        self._likely: dict[str, tuple[str, ...]] = {}
        self._told: dict[str, tuple[Registered, ...]] = {}

    # cycles

    def needs(self, view: ClusterView) -> Mapping[str, ModelNeed]:
        """Of the jobs that wait for models, by their ids in Slurm."""
        return {
            record.slurm_id: self._need(record) for record in view.jobs
            if record.state is JobState.PENDING and _asked(record)
        }  # fmt: skip

    def run(self, observation: Snapshot, view: ClusterView, decided: Plan) -> Mapping[str, str]:
        """Have models brought to nodes where jobs are about to start or likely to; what is to be said of each job."""
        records = {record.slurm_id: record for record in view.jobs if _asked(record)}
        self._conducting.racks({node.name: node.rack for node in view.nodes if node.rack})
        self._keep_pins()
        if not records:
            self._likely.clear()
            return {}
        released = {release.job: release.placement for release in decided.release}
        said = dict[str, str]()
        planned = _planned(observation, decided)
        ahead = 0
        asking = [job for job in observation.jobs if job.id in records]
        for job in sorted(asking, key=lambda job: (job.submitted_s, job.id)):
            record = records[job.id]
            if record.uid is None or record.state is not JobState.PENDING:
                continue
            wanted = self._jobs.of(record.raw_id or record.slurm_id, record.uid, _asked(record))
            entries = [each.entry for each in wanted if each.entry is not None]
            if job.id in released:
                nodes = tuple(part.node for part in released[job.id])
                self._tell_job(record, wanted, nodes)
            else:
                if job.blocked or ahead >= _MOST_AHEAD:
                    continue
                ahead += 1
                nodes = self._likely_nodes(job, observation, planned.get(job.id, ()), entries)
            for entry in entries:
                self._conducting.want(entry, self._with_room(entry, nodes))
            said[job.id] = "; ".join(filter(None, (self._sentence(entry, nodes) for entry in entries)))
        self._likely = {job_id: nodes for job_id, nodes in self._likely.items() if job_id in records}
        return said

    def _likely_nodes(
        self, job: Job, snapshot: Snapshot, planned: Collection[str], entries: Sequence[ModelEntry]
    ) -> tuple[str, ...]:
        warm = {*self._warm(entries), *self._likely.get(job.id, ())}  # what was begun is gone on with
        nodes = likely_nodes(job, snapshot, planned=planned, warm=warm, ahead_s=self._ahead_s)
        self._likely[job.id] = nodes
        return nodes

    def _need(self, record: JobRecord) -> ModelNeed:
        if record.uid is None:
            return ModelNeed()
        wanted = self._jobs.of(record.raw_id or record.slurm_id, record.uid, _asked(record))
        why = "; ".join(each.why for each in wanted if each.entry is None)
        return ModelNeed(why=why, warm=self._warm([each.entry for each in wanted if each.entry is not None]))

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

    # pins, permissions, what is there and should not be

    def _keep_pins(self) -> None:
        entries = self._registered()
        held = [progress for host in self._hosts.all().values() for progress in host.models.values()]
        if any(_is_stray(progress, entries) for progress in held):
            entries = self._registered(afresh=True)  # it may have been registered a moment ago
        for entry in entries.values():
            if entry.pinned_nodes:
                self._conducting.want(entry, entry.pinned_nodes)
        for node, host in self._hosts.all().items():
            for (key, tier), progress in host.models.items():
                if _is_stray(progress, entries):
                    if not {*progress.pins} - {ADMIN} and progress.state is not StageState.FAILED:
                        log.info("%s on %s is not registered: removed there", key, node)
                        if progress.pins:  # a pin of what was removed holds nothing
                            self._agents.act(node, "unpin", key, tier, ADMIN)
                        self._agents.act(node, "evict", key, tier)
                elif tier is TierKind.MEMORY:
                    pinned = node in entries[key].pinned_nodes
                    if pinned and ADMIN not in progress.pins and progress.ready_bytes:
                        self._agents.act(node, "pin", key, tier, ADMIN)
                    elif not pinned and ADMIN in progress.pins:
                        self._agents.act(node, "unpin", key, tier, ADMIN)
        self._keep_access(entries)
        self._keep_catalogue(entries)

    def _keep_catalogue(self, entries: Mapping[ModelKey, ModelEntry]) -> None:
        """What there is, for nodes to know while nobody can be asked."""
        known = tuple(
            Registered(
                key=entry.key, fingerprint=entry.fingerprint, uid=entry.uid, gid=entry.gid, public=entry.public,
                storage=entry.storage,
            )
            for entry in entries.values()
        )  # fmt: skip
        nodes = [node for node in self._hosts.all() if self._told.get(node, ()) != known]
        if nodes:
            self._agents.catalogue(nodes, known)
            self._told.update(dict.fromkeys(nodes, known))

    def _keep_access(self, entries: Mapping[ModelKey, ModelEntry]) -> None:
        """Who may read a model changed: nodes that hold it are told."""
        for key, entry in entries.items():
            access = access_of(entry)
            before = self._access.get(key)
            self._access[key] = access
            if before is None or before == access:
                continue
            for node in self._hosts.holders(key, entry.fingerprint):
                for tier in TierKind:
                    host = self._hosts.get(node)
                    if host is not None and (key, tier) in host.models:
                        self._agents.stage(node, _restricted(entry, tier))

    def _registered(self, *, afresh: bool = False) -> dict[ModelKey, ModelEntry]:
        now_s = self._clock.now()
        with self._lock:
            if afresh or not 0 <= now_s - self._entries_s < _ENTRIES_S:
                self._entries = {entry.key: entry for entry in self._store.models.models()}
                self._entries_s = now_s
            return self._entries

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
        self._told.pop(node, None)
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
        state = tuple((place, one.state, one.fingerprint, one.pins, one.why) for place, one in host.models.items())
        saved = self._saved.setdefault(host.node, _Saved())
        changed = state != saved.state
        if not changed and now_s - saved.at_s < _SAVED_EVERY_S:
            return False
        self._store.models.put_replicas(
            host.node,
            [
                ModelReplica(
                    node=host.node, tier=one.tier, key=one.key, fingerprint=one.fingerprint, state=one.state,
                    ready_bytes=one.ready_bytes, size=one.size, pins=one.pins, at_s=now_s, why=one.why[:500],
                )
                for one in host.models.values()
            ],
        )  # fmt: skip
        saved.state, saved.at_s = state, now_s
        return changed

    def tick(self) -> None:
        """From a timer: notice agents that went away, links that got busy."""
        for node in self._conducting.tick():
            self._saved.pop(node, None)
            self._told.pop(node, None)
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
        entry = self._registered().get(key)
        if entry is not None:
            log.info("%s wants %s on %s", by, key, ", ".join(sorted(nodes)))
            self._conducting.want(entry, nodes, tier)

    def evict(self, key: ModelKey, nodes: Collection[str], tier: TierKind) -> Collection[str]:
        """Have it removed there, unless a job there uses it; returns the nodes that were told."""
        self._conducting.forget(key, tier, nodes)
        entry = self._registered().get(key)
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
        with self._lock:
            self._entries_s = 0.0


def _asked(record: JobRecord) -> tuple[str, ...]:
    return record.annotation.preload if record.annotation is not None else ()


def _is_stray(progress: Progress, entries: Mapping[ModelKey, ModelEntry]) -> bool:
    """Whether a node holds what nobody registered."""
    entry = entries.get(progress.key)
    return entry is None or bool(progress.fingerprint and progress.fingerprint != entry.fingerprint)


def _planned(snapshot: Snapshot, decided: Plan) -> dict[str, set[str]]:
    """Nodes that are kept or vacated for a job."""
    found = dict[str, set[str]]()
    for fence in (*snapshot.fences, *decided.fence):
        found.setdefault(fence.beneficiary, set()).update(part.node for part in fence.placement)
    placed = {job.id: job.placement for job in snapshot.jobs}
    leaving = [(job.id, job.evicting_for) for job in snapshot.jobs if job.evicting_for]
    leaving += [(evict.job, evict.beneficiary) for evict in decided.evict if evict.beneficiary]
    for victim, beneficiary in leaving:
        found.setdefault(beneficiary, set()).update(part.node for part in placed.get(victim, ()))
    return found


def _restricted(entry: ModelEntry, tier: TierKind) -> StageOrder:
    """For a node that holds the model: who may read it now."""
    sources: tuple[Source, ...] = ()
    return StageOrder(
        key=entry.key, fingerprint=entry.fingerprint, sources=sources, access=access_of(entry), tier=tier,
        owner=entry.uid,
    )  # fmt: skip
