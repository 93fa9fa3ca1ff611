"""GPUs of the nodes, slices of jobs, placeholder jobs, and what slices were used for."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select, update

from slurmext.adapters.sql import models
from slurmext.model.slice_state import (
    OPEN_SLICES,
    GpuHold,
    GpuRecord,
    HoldState,
    SliceRecord,
    SliceSample,
    SliceState,
)
from slurmext.model.slicing import GpuUse
from slurmext.model.state import JobKey

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from slurmext.adapters.sql.engine import Database

_RENAMED = {"user": "user_name", "use": "gpu_use"}
_FLAGS = frozenset({"mig_capable", "oom"})


class SliceStore:
    """Of one cluster."""

    _db: Database

    # GPUs

    def record_gpus(self, node: str, gpus: Sequence[GpuRecord], at_s: float) -> None:
        """Make exactly these the GPUs of the node, unless something newer is known of it."""
        table = models.Gpu
        mine = {"cluster": self._db.cluster, "node": node}
        with self._db.write() as connection:
            known = connection.execute(select(table.at_s).filter_by(**mine)).scalars().all()
            if known and max(known) > at_s:
                return
            connection.execute(delete(table).filter_by(**mine))
            if gpus:
                connection.execute(insert(table), [{**_row(gpu), **mine, "at_s": at_s} for gpu in gpus])

    def gpus(self) -> list[GpuRecord]:
        """What agents said last, by node and minor number."""
        return self._select(models.Gpu, GpuRecord, {}, (models.Gpu.node, models.Gpu.minor))

    # slices

    def add_slices(self, token: int, records: Sequence[SliceRecord]) -> list[SliceRecord]:
        """Write reservations, all or none; returns them with their ids."""
        table, stored = models.Slice, list[SliceRecord]()
        with self._db.controlled(token) as connection:
            for record in records:
                into = insert(table).values(cluster=self._db.cluster, **_row(record)).returning(table.id)
                stored.append(replace(record, id=connection.execute(into).scalar_one()))
        return stored

    def advance_slices(
        self,
        ids: Collection[int],
        state: SliceState,
        now_s: float,
        *,
        within: Collection[SliceState] = OPEN_SLICES,
        uuid: str | None = None,
        why: str | None = None,
        made_ms: float | None = None,
        token: int | None = None,
    ) -> int:
        """Bring slices that are in one of the states `within` into another; returns how many were."""
        table = models.Slice
        given = {"uuid": uuid, "why": why, "made_ms": made_ms}
        values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        values |= {"state": state, "changed_s": now_s}
        values |= {"live_s": now_s} if state is SliceState.LIVE else {}
        values |= {"ended_s": now_s} if state.final else {}
        with self._db.write() if token is None else self._db.controlled(token) as connection:
            which = (table.cluster == self._db.cluster, table.id.in_(ids), table.state.in_(within))
            return connection.execute(update(table).where(*which).values(**values)).rowcount

    def slices(
        self,
        *,
        active: bool = True,
        job_ids: Collection[str] | None = None,
        states: Collection[SliceState] | None = None,
        user: str | None = None,
        why: str | None = None,
        since_s: float | None = None,
        limit: int | None = None,
    ) -> list[SliceRecord]:
        """Slices, oldest first; `active` leaves out those in a final state, `since_s` those that ended before.

        With `limit` the last so many.
        """
        table = models.Slice
        where: list[Any] = [table.state.in_(OPEN_SLICES)] if active else []
        where += [table.job_id.in_(job_ids)] if job_ids is not None else []
        where += [table.state.in_(states)] if states is not None else []
        where += [table.user_name == user] if user is not None else []
        where += [table.why == why] if why is not None else []
        where += [(table.ended_s.is_(None)) | (table.ended_s >= since_s)] if since_s is not None else []
        query = select(*(getattr(table, name) for name in _columns(SliceRecord)))
        query = query.where(table.cluster == self._db.cluster, *where).order_by(table.id.desc())
        with self._db.read() as connection:
            rows = connection.execute(query if limit is None else query.limit(limit)).all()
        return [_record(SliceRecord, row._mapping) for row in reversed(rows)]  # noqa: SLF001

    # placeholder jobs

    def add_hold(self, token: int, hold: GpuHold) -> GpuHold:
        """Write that a GPU is to be taken; returns it with its id."""
        table = models.GpuHold
        with self._db.controlled(token) as connection:
            into = insert(table).values(cluster=self._db.cluster, **_row(hold)).returning(table.id)
            return replace(hold, id=connection.execute(into).scalar_one())

    def change_hold(self, token: int, hold: GpuHold) -> None:
        """Replace what is known of a placeholder."""
        table = models.GpuHold
        with self._db.controlled(token) as connection:
            which = (table.cluster == self._db.cluster, table.id == hold.id)
            connection.execute(update(table).where(*which).values(**_row(hold)))

    def holds(self, *, active: bool = True) -> list[GpuHold]:
        """Placeholders, oldest first; `active` leaves out those that ended."""
        table = models.GpuHold
        states = [state for state in HoldState if not active or state is not HoldState.ENDED]
        return self._select(table, GpuHold, {"state": states}, (table.id,))

    # what they are used for

    def record_slice_sample(self, record: SliceSample) -> None:
        """Replace what is known of the job's slices on that node, unless something newer is."""
        table = models.SliceSample
        key = {
            "cluster": self._db.cluster,
            "job_id": record.job.job_id,
            "submit_s": record.job.submit_s,
            "node": record.node,
        }
        values = {**_row(record), **key}
        with self._db.write() as connection:
            known = connection.execute(select(table.at_s).filter_by(**key)).scalar()
            if known is None:
                connection.execute(insert(table).values(**values))
            elif known <= record.at_s:
                connection.execute(update(table).filter_by(**key).values(**values))

    def slice_samples(self, *, job_ids: Collection[str] | None = None) -> list[SliceSample]:
        """What agents measured last, by job and node."""
        table = models.SliceSample
        return self._select(
            table, SliceSample, {} if job_ids is None else {"job_id": job_ids}, (table.job_id, table.node)
        )

    def _prune_slices(self, token: int, before_s: float) -> int:
        """Delete slices, placeholders and measurements that ended before then."""
        slices, holds, samples = models.Slice, models.GpuHold, models.SliceSample
        mine = self._db.cluster
        with self._db.controlled(token) as connection:
            old = connection.execute(delete(slices).where(slices.cluster == mine, slices.ended_s < before_s)).rowcount
            ended = (holds.cluster == mine, holds.state == HoldState.ENDED, holds.changed_s < before_s)
            old += connection.execute(delete(holds).where(*ended)).rowcount
            past = (samples.cluster == mine, samples.at_s < before_s)
            return old + connection.execute(delete(samples).where(*past)).rowcount

    def _select(
        self, table: Any, kind: type[Any], where: Mapping[str, Collection[Any]], order: tuple[Any, ...]
    ) -> list[Any]:
        query = select(*(getattr(table, name) for name in _columns(kind))).where(table.cluster == self._db.cluster)
        for name, values in where.items():
            query = query.where(getattr(table, name).in_(values))
        with self._db.read() as connection:
            return [_record(kind, row._mapping) for row in connection.execute(query.order_by(*order))]  # noqa: SLF001


def _columns(kind: Any) -> list[str]:
    names = [_RENAMED.get(field.name, field.name) for field in fields(kind) if field.name != "job"]
    return names + (["job_id", "submit_s"] if any(field.name == "job" for field in fields(kind)) else [])


def _row(record: Any) -> dict[str, Any]:
    """A record as columns; a new row's id is the database's."""
    values = {_RENAMED.get(name, name): value for name, value in asdict(record).items() if name != "job"}
    if isinstance(getattr(record, "job", None), JobKey):
        values |= {"job_id": record.job.job_id, "submit_s": record.job.submit_s}
    if "id" in values and not values["id"]:
        del values["id"]
    return values | {name: int(values[name]) for name in _FLAGS & values.keys()}


def _record(kind: Any, row: Any) -> Any:
    values = dict(row)
    for name, column in _RENAMED.items():
        if column in values:
            values[name] = values.pop(column)
    if "submit_s" in values:
        values["job"] = JobKey(job_id=values.pop("job_id"), submit_s=values.pop("submit_s"))
    if "use" in values:
        values["use"] = GpuUse(values["use"])
    if "state" in values:
        values["state"] = (HoldState if kind is GpuHold else SliceState)(values["state"])
    return kind(**values | {name: bool(values[name]) for name in _FLAGS & values.keys()})
