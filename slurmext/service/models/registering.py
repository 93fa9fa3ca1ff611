"""Registering models: whose they are, who may read them, and which chunks they share with earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from slurmext.errors import UsageError
from slurmext.model.staged_model import ModelEntry
from slurmext.ports import ModelRegistry
from slurmext.service.models.caller import Arguments, Caller
from slurmext.service.models.desk import ModelDesk
from slurmext.service.models.quotas import Quotas
from slurmext.service.models.uploads import Uploads
from slurmext.service.query.viewer import Answer
from slurmext.staging.errors import NameTaken
from slurmext.staging.kinds import TierKind
from slurmext.staging.manifest import Manifest, parse_manifest, shared_chunks
from slurmext.staging.names import ModelKey, parse_reference

_MOST_PATH_BYTES = 4096
"""PATH_MAX. Orders to agents hold the paths of all of a job's models in one line."""
_MOST_COMPARED = 2_000_000
"""Chunks of earlier models that a new one is compared with: a second's work."""


class Registering:
    """`gid_of` finds a group's number by its name."""

    def __init__(
        self,
        registry: ModelRegistry,
        uploads: Uploads,
        quotas: Quotas,
        now: Callable[[], float],
        gid_of: Callable[[str], int | None],
        desk: ModelDesk,
    ) -> None:
        self._registry = registry
        self._desk = desk
        self._uploads = uploads
        self._quotas = quotas
        self._now = now
        self._gid_of = gid_of

    def upload(self, caller: Caller, given: Arguments) -> Answer:
        """Take a part of a manifest."""
        fingerprint, at = given.text("fingerprint"), given.number("at")
        return {"size": self._uploads.add(caller.uid, fingerprint, at, given.content("data"))}

    def register(self, caller: Caller, given: Arguments) -> Answer:
        """Register what was uploaded; with `dry_run` only say what would be. Raises NameTaken, QuotaExceeded."""
        fingerprint, storage = given.text("fingerprint"), given.text("storage")
        if not storage.startswith("/") or "/../" in f"{storage}/" or len(storage.encode()) > _MOST_PATH_BYTES:
            raise UsageError(f"storage {storage!r}: the absolute path of the model on shared storage")
        gid, public = self._audience(caller, given)
        raw = self._uploads.take(caller.uid, fingerprint)
        manifest = parse_manifest(raw, fingerprint=fingerprint)
        entries = self._registry.models()
        known = next((each for each in entries if each.key == manifest.key), None)
        if known is None:
            self._quotas.check_registered(caller.uid, self._registry.usage(caller.uid), manifest.size)
        if any(each.uid != caller.uid for each in entries if each.key.name == manifest.key.name):
            raise NameTaken(f"the name {manifest.key.name!r} is another user's: choose another name")
        if known is not None and known.fingerprint != fingerprint:
            raise NameTaken(f"{manifest.key} is registered with other content: choose another revision")
        others = [each for each in entries if each.key != manifest.key and chunks_shared(each, caller)]
        shared_bytes, shared_with = self._shared(manifest, others)
        entry = ModelEntry(
            key=manifest.key, owner=caller.user, uid=caller.uid, gid=gid, public=public, size=manifest.size,
            files=len(manifest.files), chunks=manifest.chunk_count, fingerprint=fingerprint, storage=storage,
            created_s=self._now(), shared_bytes=shared_bytes, shared_with=shared_with,
        )  # fmt: skip
        dry_run = given.flag("dry_run")
        if not dry_run:
            entry = self._registry.add(entry, raw)
            if known is not None and (public or gid is not None):
                self._registry.share(entry.key, gid=gid, public=public)
        return {
            "reference": str(entry.key), "size": entry.size, "files": entry.files, "chunks": entry.chunks,
            "shared_bytes": shared_bytes, "shared_with": shared_with, "dry_run": dry_run, "storage": entry.storage,
            "already": known is not None,
            "storage_before": known.storage if known is not None and known.storage != storage else None,
            "largest_room": max(self._desk.rooms(TierKind.MEMORY).values(), default=None),
        }  # fmt: skip

    def share(self, caller: Caller, given: Arguments) -> Answer:
        """Change who may read a model: everyone, a group, or its owner alone."""
        gid, public = self._audience(caller, given)
        entry, dry_run = own(self._registry, caller, given.text("model")), given.flag("dry_run")
        if not dry_run:
            self._registry.share(entry.key, gid=gid, public=public)
        return {"reference": str(entry.key), "dry_run": dry_run}

    def remove(self, caller: Caller, given: Arguments) -> Answer:
        """Forget a revision; which one must be said. Copies go when no job uses them; storage is not touched."""
        reference = given.text("model")
        if parse_reference(reference)[1] is None:
            raise UsageError(f"which revision of {reference}? Say {reference}@REVISION ('slurmext model list')")
        entry = own(self._registry, caller, reference)
        nodes = sorted({each.node for each in self._registry.replicas(entry.key)})
        dry_run = given.flag("dry_run")
        if not dry_run:
            self._registry.remove(entry.key)
        return {"reference": str(entry.key), "storage": entry.storage, "nodes": nodes, "dry_run": dry_run}

    def _audience(self, caller: Caller, given: Arguments) -> tuple[int | None, bool]:
        group = given.maybe_text("group")
        if group is None:
            return None, given.flag("public")
        if given.flag("public"):
            raise UsageError("a group or everyone, not both")
        gid = caller.groups.get(group, self._gid_of(group) if caller.sees_all else None)
        if gid is None:
            groups = ", ".join(sorted(caller.groups)) or "none"
            raise UsageError(f"you are not in a group {group!r}; your groups: {groups}")
        return gid, False

    def _shared(self, manifest: Manifest, entries: Sequence[ModelEntry]) -> tuple[int, str]:
        """Bytes that earlier models have too, as far as agents would take them from those, and which has most."""
        held = self._comparable(manifest.key, entries)
        found = shared_chunks(manifest, held)
        counts: dict[int, int] = {}
        for index, (number, _) in found.items():
            counts[number] = counts.get(number, 0) + manifest.lengths[index]
        if not counts:
            return 0, ""
        return sum(counts.values()), str(held[max(counts, key=lambda number: (counts[number], -number))].key)

    def _comparable(self, key: ModelKey, entries: Collection[ModelEntry]) -> list[Manifest]:
        left, held = _MOST_COMPARED, list[Manifest]()
        organization = key.name.partition("/")[0]
        for entry in sorted(
            entries,
            key=lambda each: (each.key.name != key.name, each.key.name.partition("/")[0] != organization, -each.number),
        ):
            left -= entry.chunks
            raw = self._registry.manifest(entry.fingerprint) if left >= 0 else None
            if raw is not None:
                held.append(parse_manifest(raw))
        return held


def chunks_shared(entry: ModelEntry, caller: Caller) -> bool:
    """Whether chunks of this model may become another's of this caller: only from those who could harm it anyway.

    Checksums of chunks guard against damage, not against a forger; so none are taken from other users' models.
    """
    return entry.uid == caller.uid or (entry.uid == 0 and entry.public)


def own(registry: ModelRegistry, caller: Caller, reference: str) -> ModelEntry:
    """The model, which must be the caller's to change. Raises UnknownModel, UsageError."""
    entry = registry.resolve(reference, caller.reads_as, caller.gids)
    if not caller.may_change(entry):
        raise UsageError(f"{entry.key} is {entry.owner}'s: only {entry.owner} and root may do this")
    return entry
