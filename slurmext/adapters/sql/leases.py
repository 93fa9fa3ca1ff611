"""The lease: who may act.

Expiry is judged by the caller's clock (`now_s`), not the database's. Safety never rests on a clock: the fencing token
does it, whatever the hosts believe the time to be. A host whose clock runs ahead can at worst take the lease early,
once; its own expiry then lies in the others' future, so the lease does not bounce. In exchange a test, a simulation
and the daemon share one clock, and Slurm's munge already refuses hosts whose clocks differ by more than minutes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from slurmext.adapters.sql.models import Lease as Row
from slurmext.model.state import Lease

if TYPE_CHECKING:
    from slurmext.adapters.sql.engine import Database


class LeaseStore:
    """Leases of one cluster."""

    _db: Database

    def acquire_lease(self, name: str, holder: str, ttl_s: float, now_s: float) -> Lease | None:
        """Take or renew the lease; None while another holder's has not expired. A new holder gets token + 1."""
        # Each step is one conditional UPDATE: the database decides the race. A lost race for the first INSERT
        # means that the row is there now, so the second round ends it.
        for _ in range(2):
            try:
                with self._db.write() as connection:
                    return self._acquire(connection, name, holder, ttl_s, now_s)
            except _LostInsert:
                continue
        return None

    def _acquire(self, connection: Connection, name: str, holder: str, ttl_s: float, now_s: float) -> Lease | None:
        mine = (Row.cluster == self._db.cluster, Row.name == name)
        expires_s = now_s + ttl_s
        renewed = connection.execute(update(Row).where(*mine, Row.holder == holder).values(expires_s=expires_s))
        if not renewed.rowcount:
            taken = connection.execute(
                update(Row)
                .where(*mine, Row.holder != holder, Row.expires_s <= now_s)
                .values(token=Row.token + 1, holder=holder, expires_s=expires_s)
            )
            if not taken.rowcount:
                if connection.execute(select(Row.token).where(*mine)).first() is not None:
                    return None
                try:
                    first = {"cluster": self._db.cluster, "name": name, "token": 1}
                    connection.execute(insert(Row).values(**first, holder=holder, expires_s=expires_s))
                except IntegrityError as error:
                    raise _LostInsert from error
        token = connection.execute(select(Row.token).where(*mine)).scalar_one()
        return Lease(name=name, holder=holder, token=token, expires_s=expires_s)

    def release_lease(self, lease: Lease) -> None:
        """Give the lease up, if it is still ours. The row and its token stay."""
        with self._db.write() as connection:
            connection.execute(
                update(Row)
                .where(
                    Row.cluster == self._db.cluster,
                    Row.name == lease.name,
                    Row.holder == lease.holder,
                    Row.token == lease.token,
                )
                .values(holder="", expires_s=0)
            )

    def current_lease(self, name: str) -> Lease | None:
        """The lease as stored, expired or not; None before the first and after it was given up."""
        with self._db.read() as connection:
            query = select(Row.name, Row.holder, Row.token, Row.expires_s)
            row = connection.execute(query.where(Row.cluster == self._db.cluster, Row.name == name)).first()
        return Lease(**row._mapping) if row is not None and row.holder else None  # noqa: SLF001  public by contract


class _LostInsert(Exception):
    """Another process inserted the lease's first row."""
