"""The registry of models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random

from slurmext.adapters.sql.errors import is_deadlock
from slurmext.adapters.sql.models import Model, ModelManifest, ModelName, ModelPin
from slurmext.adapters.sql.models import ModelReplica as ReplicaRow
from slurmext.model.staged_model import ModelEntry, ModelReplica, ModelUsage, resolve, usage_of
from slurmext.staging.errors import NameTaken
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.names import ModelKey

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Connection

    from slurmext.adapters.sql.engine import Database

PART_BYTES = 1 << 20
"""Databases take statements of a few MiB by default; a manifest of a terabyte has 40."""
_ENTRY = (
    "owner", "uid", "gid", "size", "files", "chunks", "fingerprint", "storage", "created_s", "shared_bytes",
    "shared_with",
)  # fmt: skip
_REPLICA = ("node", "fingerprint", "ready_bytes", "size", "at_s", "why")


class SqlModels:
    """Implements `ports.ModelRegistry` for one cluster."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def models(self) -> list[ModelEntry]:
        """All of them, by name and then in order of registration."""
        mine = Model.cluster == self._db.cluster
        columns = [getattr(Model, name) for name in _ENTRY]
        query = select(Model.id, Model.name, Model.revision, Model.public, *columns).where(mine)
        pins: dict[int, list[str]] = {}
        with self._db.read() as connection:
            rows = connection.execute(query.order_by(Model.name, Model.id)).all()
            pinned = select(ModelPin.model_id, ModelPin.node).join(Model, Model.id == ModelPin.model_id).where(mine)
            for model_id, node in connection.execute(pinned.order_by(ModelPin.node)):
                pins.setdefault(model_id, []).append(node)
        return [_entry(row, pins.get(row.id, ())) for row in rows]

    def resolve(self, reference: str, uid: int, gids: Collection[int] = ()) -> ModelEntry:
        """The revision that a reference means to this user."""
        return resolve(self.models(), reference, uid, gids)

    def add(self, entry: ModelEntry, manifest: bytes) -> ModelEntry:
        """Register a revision; returns it with its number. The same again says where it lies now. Raises NameTaken."""
        # MariaDB ends one of two who find that a third has just taken the name.
        again = Retrying(
            retry=retry_if_exception(is_deadlock), stop=stop_after_attempt(8), wait=wait_random(0, 0.1), reraise=True
        )
        return again(self._add, entry, manifest)

    def _add(self, entry: ModelEntry, manifest: bytes) -> ModelEntry:
        key, mine = entry.key, {"cluster": self._db.cluster, "name": entry.key.name}
        values: dict[str, Any] = {name: getattr(entry, name) for name in _ENTRY}
        with self._db.write() as connection:
            self._claim(connection, entry)
            known = connection.execute(
                select(Model.id, Model.fingerprint).filter_by(**mine, revision=key.revision)
            ).first()
            if known is not None and known.fingerprint != entry.fingerprint:
                raise NameTaken(f"{key} is registered with other content: choose another revision")
            if known is None:
                into = insert(Model).values(**mine, revision=key.revision, public=int(entry.public), **values)
                number = connection.execute(into.returning(Model.id)).scalar_one()
                for part, at in enumerate(range(0, len(manifest), PART_BYTES)):
                    row = {"model_id": number, "part": part, "data": manifest[at : at + PART_BYTES]}
                    connection.execute(insert(ModelManifest).values(**row))
                return replace(entry, number=number, pinned_nodes=())
            connection.execute(update(Model).where(*self._is(key)).values(storage=entry.storage))
        return next((each for each in self.models() if each.key == key), entry)

    def _claim(self, connection: Connection, entry: ModelEntry) -> None:
        """Take the name, if nobody has it; its row stays locked, so that two who add to it come one after the other."""
        mine = {"cluster": self._db.cluster, "name": entry.key.name}
        holder = select(ModelName.uid).filter_by(**mine).with_for_update()
        uid = connection.execute(holder).scalar()
        if uid is None:
            try:
                with connection.begin_nested():
                    connection.execute(insert(ModelName).values(**mine, uid=entry.uid))
            except IntegrityError:
                pass  # another one got in between
            uid = connection.execute(holder).scalar()
        if uid != entry.uid:
            raise NameTaken(f"the name {entry.key.name!r} is another user's: choose another name")

    def share(self, key: ModelKey, *, gid: int | None, public: bool) -> bool:
        """Change who may read it; False when it is not registered."""
        with self._db.write() as connection:
            which = self._is(key)
            return connection.execute(update(Model).where(*which).values(gid=gid, public=int(public))).rowcount > 0 or (
                connection.execute(select(Model.id).where(*which)).first() is not None  # MariaDB counts changes
            )

    def pin(self, key: ModelKey, nodes: Collection[str]) -> bool:
        """These nodes shall have it and keep it as well; False when it is not registered."""
        with self._db.write() as connection:
            number = connection.execute(select(Model.id).where(*self._is(key)).with_for_update()).scalar()
            if number is None:
                return False
            held = set(connection.execute(select(ModelPin.node).where(ModelPin.model_id == number)).scalars())
            rows = [{"model_id": number, "node": node} for node in sorted({*nodes} - held)]
            if rows:
                connection.execute(insert(ModelPin), rows)
            return True

    def unpin(self, key: ModelKey, nodes: Collection[str]) -> bool:
        """These nodes no longer need to; False when it is not registered."""
        with self._db.write() as connection:
            number = connection.execute(select(Model.id).where(*self._is(key)).with_for_update()).scalar()
            if number is not None:
                which = (ModelPin.model_id == number, ModelPin.node.in_(nodes))
                connection.execute(delete(ModelPin).where(*which))
            return number is not None

    def remove(self, key: ModelKey) -> bool:
        """Forget a revision and its manifest; the name is free again after the last. False when it is not there."""
        mine = {"cluster": self._db.cluster, "name": key.name}
        with self._db.write() as connection:
            connection.execute(select(ModelName.uid).filter_by(**mine).with_for_update())
            gone = connection.execute(delete(Model).where(*self._is(key))).rowcount > 0
            left = connection.execute(select(func.count()).select_from(Model).filter_by(**mine)).scalar_one()
            if not left:
                connection.execute(delete(ModelName).filter_by(**mine))
            return gone

    def manifest(self, fingerprint: str) -> bytes | None:
        """The manifest, as `Manifest.dump` gave it."""
        query = select(ModelManifest.data).join(Model, Model.id == ModelManifest.model_id)
        query = query.where(Model.cluster == self._db.cluster, Model.fingerprint == fingerprint)
        with self._db.read() as connection:
            parts = connection.execute(query.order_by(ModelManifest.part)).scalars().all()
        return b"".join(parts) if parts else None

    def put_replicas(self, node: str, replicas: Sequence[ModelReplica]) -> None:
        """Make exactly these what the node has."""
        mine = {"cluster": self._db.cluster, "node": node}
        rows = [
            {name: getattr(replica, name) for name in _REPLICA}
            | {"name": replica.key.name, "revision": replica.key.revision, "tier": replica.tier.value}
            | {"state": replica.state.value, "pins": "\n".join(replica.pins), **mine}
            for replica in replicas
        ]
        with self._db.write() as connection:
            connection.execute(delete(ReplicaRow).filter_by(**mine))
            if rows:
                connection.execute(insert(ReplicaRow), rows)

    def replicas(self, key: ModelKey | None = None) -> list[ModelReplica]:
        """What nodes have, by node, name and tier."""
        order = (ReplicaRow.node, ReplicaRow.name, ReplicaRow.revision, ReplicaRow.tier)
        query = select(ReplicaRow).where(ReplicaRow.cluster == self._db.cluster).order_by(*order)
        if key is not None:
            query = query.where(ReplicaRow.name == key.name, ReplicaRow.revision == key.revision)
        with self._db.read() as connection:
            return [_replica(row) for row in connection.execute(query)]

    def node_gone(self, node: str) -> None:
        """What the node had is not offered until it says again what it has."""
        self.put_replicas(node, ())

    def usage(self, uid: int) -> ModelUsage:
        """What a user's models take."""
        return usage_of(self.models(), self.replicas(), uid)

    def _is(self, key: ModelKey) -> tuple[Any, ...]:
        return Model.cluster == self._db.cluster, Model.name == key.name, Model.revision == key.revision


def _entry(row: Any, pins: Collection[str]) -> ModelEntry:
    values = {name: getattr(row, name) for name in _ENTRY}
    return ModelEntry(
        key=ModelKey(row.name, row.revision), public=bool(row.public), number=row.id, pinned_nodes=tuple(pins), **values
    )


def _replica(row: Any) -> ModelReplica:
    return ModelReplica(
        key=ModelKey(row.name, row.revision),
        tier=TierKind(row.tier),
        state=StageState(row.state),
        pins=tuple(filter(None, row.pins.split("\n"))),
        **{name: getattr(row, name) for name in _REPLICA},
    )
