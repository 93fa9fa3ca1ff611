"""Models and their copies as JSON values, as far as the asker may read them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from slurmext.model.staged_model import ModelEntry, ModelReplica
from slurmext.service.models.caller import Caller
from slurmext.service.query.viewer import Answer
from slurmext.staging.manifest import Manifest

GroupName = Callable[[int], str]


def entry_values(
    entry: ModelEntry,
    caller: Caller,
    replicas: Collection[ModelReplica],
    known: Collection[ModelEntry],
    group: GroupName,
) -> Answer:
    """A model. The one it shares chunks with is named only to those who may read that too."""
    named = next((each for each in known if str(each.key) == entry.shared_with), None)
    mine = [each for each in replicas if each.fingerprint == entry.fingerprint]
    newest = max(
        (each.number for each in known if each.key.name == entry.key.name and caller.may_read(each)), default=0
    )
    return {
        "reference": str(entry.key),
        "model": entry.key.name,
        "revision": entry.key.revision,
        "newest": entry.number == newest,
        "owner": entry.owner,
        "access": "everyone" if entry.public else "owner" if entry.gid is None else f"group {group(entry.gid)}",
        "size": entry.size,
        "new_bytes": entry.size - entry.shared_bytes,
        "shared_bytes": entry.shared_bytes,
        "shared_with": entry.shared_with if named is not None and caller.may_read(named) else "",
        "files": entry.files,
        "chunks": entry.chunks,
        "fingerprint": entry.fingerprint,
        "storage": entry.storage,
        "created_s": entry.created_s,
        "pinned_nodes": list(entry.pinned_nodes),
        "nodes": sorted({each.node for each in mine if each.complete}),
        "arriving": sorted({each.node for each in mine if not each.complete and each.ready_bytes < each.size}),
    }


def replica_values(replica: ModelReplica, entry: ModelEntry | None, caller: Caller) -> Answer:
    """A copy. Whose jobs hold it is told to the owner and root; others see how many."""
    current = entry is not None and entry.fingerprint == replica.fingerprint
    owns = entry is not None and caller.may_change(entry)
    return {
        "reference": str(replica.key),
        "node": replica.node,
        "tier": replica.tier.value,
        "state": replica.state.value if current else "outdated",
        "percent": 100.0 if replica.complete else 100 * replica.ready_bytes / max(1, replica.size),
        "ready_bytes": replica.ready_bytes,
        "size": replica.size,
        "held": len(replica.pins),
        "pins": list(replica.pins) if owns or caller.sees_all else [],
        "at_s": replica.at_s,
        "why": replica.why,
    }


def replicas_for(
    replicas: Sequence[ModelReplica], entries: Collection[ModelEntry], caller: Caller
) -> list[tuple[ModelReplica, ModelEntry | None]]:
    """Copies of models that the asker may read; of models that are not registered only root's."""
    by_key = {entry.key: entry for entry in entries}
    found = [(each, by_key.get(each.key)) for each in replicas]
    return [(each, entry) for each, entry in found if (caller.sees_all if entry is None else caller.may_read(entry))]


def file_values(manifest: Manifest) -> list[Answer]:
    """A model's files."""
    return [
        {"name": entry.name, "size": entry.size, "kind": entry.kind.value, "sha256": entry.sha256,
         "chunks": manifest.starts[index + 1] - manifest.starts[index]}
        for index, entry in enumerate(manifest.files)
    ]  # fmt: skip
