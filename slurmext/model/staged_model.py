"""Models that can be staged: who may read them, where copies of them are, and which one a reference means.

The key is `slurmext.staging.names.ModelKey`, which jobs use as well; names and kinds there are pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from slurmext.staging.errors import UnknownModel
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.names import ModelKey, parse_reference

_NEAREST = 5
ADMIN = "admin"
"""Who holds a copy that is pinned to its node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """A registered revision. Its owner reads it, and the group `gid`, and with `public` everyone; root always.

    `storage` is where its files lie on shared storage; they are read there with the owner's rights, never with root's.
    `number` counts registrations: the newest revision of a name is the one with the highest, whatever clocks said.
    `shared_bytes` of its chunks were in an earlier model (`shared_with`) too, when it was registered.
    """

    key: ModelKey
    owner: str
    uid: int
    gid: int | None = None
    public: bool = False
    size: int
    files: int = 1
    chunks: int = 0
    fingerprint: str
    storage: str
    created_s: float
    number: int = 0
    shared_bytes: int = 0
    shared_with: str = ""
    pinned_nodes: tuple[str, ...] = ()
    """Nodes that shall have it in memory and keep it, whether a job uses it or not."""

    def readable_by(self, uid: int, gids: Collection[int] = ()) -> bool:
        """Whether this user, in these groups, may read it."""
        return self.public or uid in {0, self.uid} or (self.gid is not None and self.gid in gids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReplica:
    """What a node says it has of a model in one tier. `at_s` is when the controller heard of it, by its own clock.

    It counts as a copy of a registered model only when the fingerprint is that model's. `pins` are those who hold it:
    `job-12`, `admin`.
    """

    node: str
    tier: TierKind
    key: ModelKey
    fingerprint: str
    state: StageState
    ready_bytes: int
    size: int
    pins: tuple[str, ...] = ()
    at_s: float = 0.0
    why: str = ""

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
        return self.state is StageState.COMPLETE


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUsage:
    """What a user's models take: bytes registered, and bytes in the memory of each node that has any."""

    models: int = 0
    registered_bytes: int = 0
    staged_bytes: Mapping[str, int] = field(default_factory=dict[str, int])


def resolve(entries: Iterable[ModelEntry], reference: str, uid: int, gids: Collection[int] = ()) -> ModelEntry:
    """The revision that `org/model@rev` means, or of `org/model` the one registered last, as far as the user may read.

    Raises BadReference, UnknownModel: what the user may not read is told of as if it did not exist.
    """
    name, revision = parse_reference(reference)
    readable = [entry for entry in entries if entry.readable_by(uid, gids)]
    found = [entry for entry in readable if entry.key.name == name and revision in {None, entry.key.revision}]
    if found:
        return max(found, key=lambda entry: entry.number)
    raise UnknownModel(f"there is no model {reference!r} that you may read; {_nearest(readable, name, reference)}")


def usage_of(entries: Iterable[ModelEntry], replicas: Iterable[ModelReplica], uid: int) -> ModelUsage:
    """What this user's models take. A model counts on a node from when it begins to arrive."""
    mine = {entry.fingerprint: entry for entry in entries if entry.uid == uid}
    staged: dict[str, int] = {}
    for replica in replicas:
        if replica.tier is TierKind.MEMORY and replica.fingerprint in mine and replica.state is not StageState.FAILED:
            staged[replica.node] = staged.get(replica.node, 0) + mine[replica.fingerprint].size
    return ModelUsage(
        models=len(mine), registered_bytes=sum(entry.size for entry in mine.values()), staged_bytes=staged
    )


def _nearest(readable: Iterable[ModelEntry], name: str, reference: str) -> str:
    entries = sorted(readable, key=lambda entry: -entry.number)
    same = [str(entry.key) for entry in entries if entry.key.name == name]
    names = list(dict.fromkeys(entry.key.name for entry in entries))
    close = same[:_NEAREST] or difflib.get_close_matches(name, names, n=_NEAREST, cutoff=0.5)
    if not close:
        last = name.rpartition("/")[2].lower()
        close = [each for each in names if last in each.lower()][:_NEAREST]
    if same:
        return f"revisions: {', '.join(close)}"
    if close:
        return f"the nearest: {', '.join(close)}"
    return f"'slurmext model list' shows those that are, 'slurmext model import PATH {reference}' registers one"
