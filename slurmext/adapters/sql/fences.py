"""Standing fences: the GPUs kept free for a beneficiary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, insert, select

from slurmext.adapters.sql.models import Reservation, ReservationGpus
from slurmext.errors import SlurmextError
from slurmext.model.state import JobKey, StoredFence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurmext.adapters.sql.engine import Database


class FenceStore:
    """Fences of one cluster."""

    _db: Database

    def replace_fences(self, token: int, fences: Sequence[StoredFence]) -> None:
        """Make exactly these fences stand. A beneficiary has one fence."""
        wanted = {(fence.beneficiary.job_id, fence.beneficiary.submit_s): fence for fence in fences}
        if len(wanted) < len(fences):
            raise SlurmextError("a job was given two fences; merge their placements into one.")
        with self._db.controlled(token) as connection:
            standing = {(f.beneficiary.job_id, f.beneficiary.submit_s): f for f in self._fences(connection)}
            for key, fence in standing.items():
                if wanted.get(key) != fence:
                    connection.execute(
                        delete(Reservation).where(
                            Reservation.cluster == self._db.cluster,
                            Reservation.job_id == key[0],
                            Reservation.submit_s == key[1],
                        )
                    )
            for key, fence in wanted.items():
                if standing.get(key) != fence:
                    self._insert(connection, fence)

    def fences(self) -> list[StoredFence]:
        """Standing fences, oldest first."""
        with self._db.read() as connection:
            return self._fences(connection)

    def _insert(self, connection: Connection, fence: StoredFence) -> None:
        into = insert(Reservation).values(
            cluster=self._db.cluster,
            job_id=fence.beneficiary.job_id,
            submit_s=fence.beneficiary.submit_s,
            created_s=fence.created_s,
        )
        number = connection.execute(into.returning(Reservation.id)).scalar_one()
        if fence.placement:
            gpus = [{"reservation_id": number, "node": node, "gpus": n} for node, n in fence.placement.items()]
            connection.execute(insert(ReservationGpus), gpus)

    def _fences(self, connection: Connection) -> list[StoredFence]:
        columns = (Reservation.id, Reservation.job_id, Reservation.submit_s, Reservation.created_s)
        query = select(*columns).where(Reservation.cluster == self._db.cluster)
        rows = connection.execute(query.order_by(Reservation.created_s, Reservation.id)).all()
        placements: dict[int, dict[str, int]] = {row.id: {} for row in rows}
        gpus = (
            select(ReservationGpus.reservation_id, ReservationGpus.node, ReservationGpus.gpus)
            .join(Reservation, Reservation.id == ReservationGpus.reservation_id)
            .where(Reservation.cluster == self._db.cluster)
        )
        for number, node, count in connection.execute(gpus.order_by(ReservationGpus.node)):
            if number in placements:
                placements[number][node] = count
        return [
            StoredFence(
                beneficiary=JobKey(job_id=row.job_id, submit_s=row.submit_s),
                placement=placements[row.id],
                created_s=row.created_s,
            )
            for row in rows
        ]
