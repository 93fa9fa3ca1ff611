"""What nodes hold, kept as it is registered: pins, who may read, what was removed, and what agents know of all this."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from slurmext.model.staged_model import ADMIN, ModelEntry
from slurmext.ports import Clock, ModelRegistry, StageAgents
from slurmext.service.staging.conducting import access_of
from slurmext.service.staging.hosts import Place, StageHosts
from slurmext.staging.access import Access
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.names import ModelKey
from slurmext.staging.order import Progress, Source, StageOrder
from slurmext.staging.preload import Registered

log = logging.getLogger(__name__)

_ENTRIES_S = 2.0


class Keeping:
    """`pinned(entry)` has a model brought to the nodes that it is pinned on. From any thread."""

    def __init__(
        self,
        registry: ModelRegistry,
        agents: StageAgents,
        clock: Clock,
        hosts: StageHosts,
        *,
        pinned: Callable[[ModelEntry], None],
    ) -> None:
        self._registry, self._agents, self._clock, self._hosts = registry, agents, clock, hosts
        self._pinned = pinned
        self._lock = threading.RLock()
        self._entries_s = 0.0
        self._entries: dict[ModelKey, ModelEntry] = {}
        self._access: dict[str, dict[Place, Access]] = {}
        self._told: dict[str, tuple[Registered, ...]] = {}
        self._catalogue: tuple[Registered, ...] = ()

    def forget_node(self, node: str) -> None:
        """Its agent is another one now, or away: it knows nothing."""
        self._told.pop(node, None)
        self._access.pop(node, None)

    def forget_entries(self) -> None:
        """The registry changed: ask it anew."""
        with self._lock:
            self._entries_s = 0.0

    def registered(self, *, afresh: bool = False) -> dict[ModelKey, ModelEntry]:
        """All models. Raises StoreUnavailable."""
        now_s = self._clock.now()
        with self._lock:
            if afresh or not 0 <= now_s - self._entries_s < _ENTRIES_S:
                self._entries = {entry.key: entry for entry in self._registry.models()}
                self._entries_s = now_s
            return self._entries

    def keep(self) -> None:
        """Once a cycle. Raises StoreUnavailable."""
        entries = self.registered()
        held = [progress for host in self._hosts.all().values() for progress in host.models.values()]
        if any(_is_stray(progress, entries) for progress in held):
            entries = self.registered(afresh=True)  # it may have been registered a moment ago
        for entry in entries.values():
            if entry.pinned_nodes:
                self._pinned(entry)
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
        # One comparison, not one for each node: what was told last is the same object for all that were told.
        self._catalogue = known = self._catalogue if known == self._catalogue else known
        nodes = [node for node in self._hosts.all() if self._told.get(node) is not known]
        if nodes:
            self._agents.catalogue(nodes, known)
            self._told.update(dict.fromkeys(nodes, known))

    def _keep_access(self, entries: Mapping[ModelKey, ModelEntry]) -> None:
        """Nodes that hold a model are told who may read it, when they are first heard of and when that changes: it may
        have changed while their agent, or slurmextd, was away.
        """
        for node, host in self._hosts.all().items():
            before, self._access[node] = self._access.get(node, {}), dict[Place, Access]()
            for place, progress in host.models.items():
                if progress.state is not StageState.COMPLETE or _is_stray(progress, entries):
                    continue
                entry = entries[progress.key]
                access = access_of(entry)
                if before.get(place) == access or self._agents.stage(node, _restricted(entry, place[1])):
                    self._access[node][place] = access


def _is_stray(progress: Progress, entries: Mapping[ModelKey, ModelEntry]) -> bool:
    """Whether a node holds what nobody registered."""
    entry = entries.get(progress.key)
    return entry is None or bool(progress.fingerprint and progress.fingerprint != entry.fingerprint)


def _restricted(entry: ModelEntry, tier: TierKind) -> StageOrder:
    """For a node that holds the model: who may read it now."""
    sources: tuple[Source, ...] = ()
    return StageOrder(
        key=entry.key, fingerprint=entry.fingerprint, sources=sources, access=access_of(entry), tier=tier,
        owner=entry.uid,
    )  # fmt: skip
