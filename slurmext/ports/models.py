"""The registry of models that can be staged."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from slurmext.model.staged_model import ModelEntry, ModelReplica, ModelUsage
from slurmext.staging.names import ModelKey


class ModelRegistry(Protocol):
    """Models, their manifests, and where copies of them are. Raises StoreUnavailable."""

    def models(self) -> list[ModelEntry]:
        """All of them, by name and then in order of registration."""
        ...

    def resolve(self, reference: str, uid: int, gids: Collection[int] = ()) -> ModelEntry:
        """The revision that a reference means to this user: without one the newest. Raises BadReference,
        UnknownModel (also for what the user may not read).
        """
        ...

    def add(self, entry: ModelEntry, manifest: bytes) -> ModelEntry:
        """Register a revision; returns it with its number. The same again changes nothing but where it is stored.

        A name is its first owner's: others add no revisions to it. A revision never changes. Raises NameTaken.
        """
        ...

    def share(self, key: ModelKey, *, gid: int | None, public: bool) -> bool:
        """Change who may read it; False when it is not registered."""
        ...

    def pin(self, key: ModelKey, nodes: Collection[str]) -> bool:
        """These nodes shall have it and keep it as well; False when it is not registered."""
        ...

    def unpin(self, key: ModelKey, nodes: Collection[str]) -> bool:
        """These nodes no longer need to; False when it is not registered."""
        ...

    def remove(self, key: ModelKey) -> bool:
        """Forget a revision and its manifest; False when it is not registered."""
        ...

    def manifest(self, fingerprint: str) -> bytes | None:
        """The manifest, as `Manifest.dump` gave it."""
        ...

    def put_replicas(self, node: str, replicas: Sequence[ModelReplica]) -> None:
        """Make exactly these what the node has."""
        ...

    def replicas(self, key: ModelKey | None = None) -> list[ModelReplica]:
        """What nodes have, by node, name and tier."""
        ...

    def node_gone(self, node: str) -> None:
        """What the node had is not offered until it says again what it has."""
        ...

    def usage(self, uid: int) -> ModelUsage:
        """What a user's models take."""
        ...
