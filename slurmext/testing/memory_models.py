"""MemoryModels: the registry of models in dictionaries, for tests. Passes the same contract tests as the SQL one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from itertools import count

from slurmext.model.staged_model import ModelEntry, ModelReplica, ModelUsage, resolve, usage_of
from slurmext.staging.errors import NameTaken
from slurmext.staging.names import ModelKey


class MemoryModels:
    """Implements `ports.ModelRegistry`. `require_up` raises StoreUnavailable while the database is down."""

    def __init__(self, require_up: Callable[[], None] = lambda: None) -> None:
        self._require_up = require_up
        self._lock = threading.RLock()
        self._entries: dict[ModelKey, ModelEntry] = {}
        self._manifests: dict[str, bytes] = {}
        self._replicas: dict[str, list[ModelReplica]] = {}
        self._numbers = count(1)

    def models(self) -> list[ModelEntry]:
        with self._lock:
            self._require_up()
            return sorted(self._entries.values(), key=lambda entry: (entry.key.name, entry.number))

    def resolve(self, reference: str, uid: int, gids: Collection[int] = ()) -> ModelEntry:
        return resolve(self.models(), reference, uid, gids)

    def add(self, entry: ModelEntry, manifest: bytes) -> ModelEntry:
        with self._lock:
            self._require_up()
            owners = {known.uid for known in self._entries.values() if known.key.name == entry.key.name}
            if owners - {entry.uid}:
                raise NameTaken(f"the name {entry.key.name!r} is another user's: choose another name")
            if known := self._entries.get(entry.key):
                if known.fingerprint != entry.fingerprint:
                    raise NameTaken(f"{entry.key} is registered with other content: choose another revision")
                self._change(entry.key, storage=entry.storage)
                return self._entries[entry.key]
            stored = replace(entry, number=next(self._numbers))
            self._entries[entry.key] = stored
            self._manifests[entry.fingerprint] = manifest
            return stored

    def share(self, key: ModelKey, *, gid: int | None, public: bool) -> bool:
        return self._change(key, gid=gid, public=public)

    def pin(self, key: ModelKey, nodes: Collection[str]) -> bool:
        with self._lock:
            known = self._entries.get(key)
            return self._change(key, pinned_nodes=tuple(sorted({*(known.pinned_nodes if known else ()), *nodes})))

    def unpin(self, key: ModelKey, nodes: Collection[str]) -> bool:
        with self._lock:
            known = self._entries.get(key)
            return self._change(key, pinned_nodes=tuple(sorted({*(known.pinned_nodes if known else ())} - {*nodes})))

    def remove(self, key: ModelKey) -> bool:
        with self._lock:
            self._require_up()
            known = self._entries.pop(key, None)
            if known is not None:
                self._manifests.pop(known.fingerprint, None)
            return known is not None

    def manifest(self, fingerprint: str) -> bytes | None:
        with self._lock:
            self._require_up()
            return self._manifests.get(fingerprint)

    def put_replicas(self, node: str, replicas: Sequence[ModelReplica]) -> None:
        with self._lock:
            self._require_up()
            self._replicas[node] = [replace(replica, node=node) for replica in replicas]

    def replicas(self, key: ModelKey | None = None) -> list[ModelReplica]:
        with self._lock:
            self._require_up()
            held = [replica for replicas in self._replicas.values() for replica in replicas]
            wanted = [replica for replica in held if key in {None, replica.key}]
            return sorted(wanted, key=lambda replica: (replica.node, str(replica.key), replica.tier))

    def node_gone(self, node: str) -> None:
        with self._lock:
            self._require_up()
            self._replicas.pop(node, None)

    def usage(self, uid: int) -> ModelUsage:
        return usage_of(self.models(), self.replicas(), uid)

    def _change(self, key: ModelKey, **values: object) -> bool:
        with self._lock:
            self._require_up()
            if key not in self._entries:
                return False
            self._entries[key] = replace(self._entries[key], **values)  # pyright: ignore[reportArgumentType]
            return True
