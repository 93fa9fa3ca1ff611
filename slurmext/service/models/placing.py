"""Which nodes shall have a model: asked by its owner or root, carried out by the desk."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from slurmext.errors import SlurmextError, UsageError
from slurmext.model.staged_model import ADMIN, ModelEntry, ModelReplica
from slurmext.ports import ModelRegistry
from slurmext.service.models.caller import Arguments, Caller
from slurmext.service.models.desk import ModelDesk
from slurmext.service.models.quotas import QuotaExceeded, Quotas, gib
from slurmext.service.models.registering import own
from slurmext.service.query.viewer import Answer
from slurmext.staging.kinds import TierKind

_MOST_NAMED = 5


class Placing:
    """Requests to stage, pin, evict and check."""

    def __init__(self, registry: ModelRegistry, desk: ModelDesk, quotas: Quotas) -> None:
        self._registry = registry
        self._desk = desk
        self._quotas = quotas

    def stage(self, caller: Caller, given: Arguments) -> Answer:
        """Bring a model to nodes. Raises QuotaExceeded."""
        entry, nodes, tier = self._asked(caller, given)
        self._check_room(entry, nodes, tier)
        if not given.flag("dry_run"):
            self._desk.wanted(entry.key, nodes, tier, caller.user)
        return self._told(entry, nodes, given, tier)

    def pin(self, caller: Caller, given: Arguments) -> Answer:
        """Bring a model to the memory of nodes and keep it there. Users may where their memory is limited."""
        entry, nodes, tier = self._asked(caller, given)
        if not caller.sees_all and self._quotas.node_bytes is None:
            raise UsageError(
                "only root pins models here: without a limit to each user's memory on a node (the site file's"
                " staging.user_node_gib) one could fill all of it"
            )
        if tier is not TierKind.MEMORY:
            raise UsageError("models are pinned in memory; on disk they stay until room is needed")
        self._check_room(entry, nodes, tier)
        if not given.flag("dry_run"):
            self._registry.pin(entry.key, nodes)
            self._desk.wanted(entry.key, nodes, tier, caller.user)
        return self._told(entry, nodes, given, tier)

    def unpin(self, caller: Caller, given: Arguments) -> Answer:
        """Keep a model on these nodes no longer than it is used; without nodes on none. Tells which had kept it."""
        entry = own(self._registry, caller, given.text("model"))
        asked = given.texts("nodes")
        nodes = tuple(node for node in entry.pinned_nodes if not asked or node in asked)
        if not given.flag("dry_run"):
            self._registry.unpin(entry.key, nodes)
        return self._told(entry, nodes, given, TierKind.MEMORY)

    def evict(self, caller: Caller, given: Arguments) -> Answer:
        """Remove copies; without nodes wherever they are. Those that a job or a pin holds stay."""
        entry, tier = own(self._registry, caller, given.text("model")), _tier(given)
        held = [each for each in self._registry.replicas(entry.key) if each.tier is tier]
        nodes = given.texts("nodes") or tuple(sorted({each.node for each in held}))
        absent = sorted({*nodes} - {each.node for each in held})
        if absent:
            raise SlurmextError(f"{entry.key} is not in the {tier} of {', '.join(absent)} ('slurmext model where')")
        holders = {each.node: _holders(each, entry) for each in held if each.node in nodes}
        kept = {node: names for node, names in holders.items() if names}
        nodes = tuple(node for node in nodes if node not in kept)
        told = nodes if given.flag("dry_run") else self._desk.evict(entry.key, nodes, tier)
        return {**self._told(entry, tuple(told), given, tier), "kept": kept}

    def verify(self, caller: Caller, given: Arguments) -> Answer:
        """Have every byte of copies checked; without nodes wherever they are."""
        entry = own(self._registry, caller, given.text("model"))
        held = sorted({each.node for each in self._registry.replicas(entry.key) if each.ready_bytes})
        nodes = given.texts("nodes") or tuple(held)
        if absent := sorted({*nodes} - {*held}):
            raise SlurmextError(f"{entry.key} is not on {', '.join(absent)} ('slurmext model where')")
        return self._told(entry, tuple(self._desk.verify(entry.key, nodes)), given, TierKind.MEMORY)

    def _asked(self, caller: Caller, given: Arguments) -> tuple[ModelEntry, tuple[str, ...], TierKind]:
        entry, nodes = own(self._registry, caller, given.text("model")), given.texts("nodes")
        if not nodes:
            raise UsageError("on which nodes? -w NODES")
        known = set(self._desk.nodes())
        if known and (unknown := [node for node in nodes if node not in known]):
            close = difflib.get_close_matches(unknown[0], sorted(known), n=3)
            hint = (
                f"; near that: {', '.join(close)}" if close else f"; there are {', '.join(sorted(known)[:_MOST_NAMED])}"
            )
            raise SlurmextError(f"no agent is connected of {', '.join(unknown)}{hint} ('slurmext daemon status')")
        return entry, nodes, _tier(given)

    def _check_room(self, entry: ModelEntry, nodes: Collection[str], tier: TierKind) -> None:
        rooms = self._desk.rooms(tier)
        told = {node for each in TierKind for node in self._desk.rooms(each)}
        if without := sorted({*nodes} & told - rooms.keys()):
            key, other = ("disk_dir", "memory") if tier is TierKind.DISK else ("memory_percent", "disk")
            raise SlurmextError(
                f"{', '.join(without)} {'has' if len(without) == 1 else 'have'} no {tier} for models (staging.{key} of"
                f" the site file): --tier {other}, or other nodes"
            )
        small = [node for node in nodes if entry.size > rooms.get(node, entry.size)]
        if small:
            raise SlurmextError(
                f"{entry.key} has {gib(entry.size)}, {small[0]} has room for {gib(rooms[small[0]])} of models in its"
                f" {tier} (the site file's staging); the most of any node is {gib(max(rooms.values()))}"
            )
        if tier is not TierKind.MEMORY:
            return
        there = {
            each.node
            for each in self._registry.replicas(entry.key)
            if each.tier is tier and each.fingerprint == entry.fingerprint
        }
        usage = self._registry.usage(entry.uid)
        over = [n for n in nodes if n not in there and self._quotas.over_on(entry.uid, usage, n, entry.size)]
        if over:
            have = gib(usage.staged_bytes.get(over[0], 0))
            raise QuotaExceeded(
                f"{entry.owner}'s models take {have} of the memory of {over[0]} and may take"
                f" {gib(self._quotas.node_bytes or 0)}; {entry.key} has {gib(entry.size)}:"
                " 'slurmext model evict' or unpin another one there"
            )

    def _told(self, entry: ModelEntry, nodes: Collection[str], given: Arguments, tier: TierKind) -> Answer:
        return {
            "reference": str(entry.key), "size": entry.size, "nodes": list(nodes), "tier": tier.value,
            "dry_run": given.flag("dry_run"),
        }  # fmt: skip


def _holders(replica: ModelReplica, entry: ModelEntry) -> list[str]:
    """Who holds it; a pin that was taken back is about to be gone there too."""
    return [name for name in replica.pins if name != ADMIN or replica.node in entry.pinned_nodes]


def _tier(given: Arguments) -> TierKind:
    tier = given.maybe_text("tier") or TierKind.MEMORY.value
    if tier not in {kind.value for kind in TierKind}:
        raise UsageError(f"tier {tier!r}: memory or disk")
    return TierKind(tier)
