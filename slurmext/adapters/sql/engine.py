"""Connections and transactions. Everything SQLAlchemy raises leaves here as StoreUnavailable."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from slurmext.adapters.sql import revisions
from slurmext.adapters.sql.errors import DatabaseRefused, SchemaMismatch
from slurmext.adapters.sql.filesystem import require_local
from slurmext.adapters.sql.models import Lease
from slurmext.errors import StoreConflict, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

BUSY_TIMEOUT_S = 5.0
"""How long a write waits for another one. Longer than any of ours; short enough for a cycle to be skipped instead."""

CONTROLLER = "controller"
"""Name of the lease whose token controller writes carry."""

_DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
_EXTRAS = {"psycopg": "slurmext[postgres]", "pymysql": "slurmext[mysql]"}
_EXAMPLES = "sqlite:////var/lib/slurmext/state.db, postgresql://user:password@host/slurmext, mariadb://user:password@host/slurmext"


def parse_url(url: str) -> URL:
    """The URL with the driver we test with; DatabaseRefused when it is none of the three databases."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise DatabaseRefused(f"database {url!r} is not a database URL. Examples: {_EXAMPLES}.") from error
    dialect = parsed.drivername.partition("+")[0]
    if dialect not in _DRIVERS:
        raise DatabaseRefused(f"database {shown(parsed)!r}: {dialect} is not supported. Examples: {_EXAMPLES}.")
    parsed = parsed.set(drivername=_DRIVERS[dialect])
    if dialect == "sqlite":
        if parsed.database in {None, "", ":memory:"}:
            raise DatabaseRefused(
                f"database {url!r} would be forgotten at exit. Name a file: sqlite:////var/lib/slurmext/state.db."
            )
        parsed = parsed.set(database=str(Path(parsed.database).absolute()))
    elif not parsed.database:
        raise DatabaseRefused(f"database {shown(parsed)!r} names no database. Examples: {_EXAMPLES}.")
    return parsed


def shown(url: URL) -> str:
    """The URL as people write it, without its password."""
    scheme = {"mysql": "mariadb"}.get(url.get_backend_name(), url.get_backend_name())
    return url.set(drivername=scheme).render_as_string(hide_password=True)


def make_engine(url: URL, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> Engine:
    """An engine that waits at most `busy_timeout_s` for locks and finds a dead server out within seconds."""
    dialect = url.get_backend_name()
    if dialect == "sqlite":
        # mode=rw: a missing file is an error, not an empty database
        file_url = url.set(database=f"file:{quote(str(url.database))}", query={"mode": "rw", "uri": "true"})
        engine = create_engine(file_url, connect_args={"timeout": busy_timeout_s})
        event.listen(engine, "connect", _sqlite_connected)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    seconds = max(1, round(busy_timeout_s))
    if dialect == "postgresql":
        connect = {
            "connect_timeout": 5,
            "tcp_user_timeout": 30_000,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        }
        session = [f"SET lock_timeout = '{seconds}s'", "SET idle_in_transaction_session_timeout = '120s'"]
    else:
        connect = {"connect_timeout": 5, "read_timeout": 60, "write_timeout": 60, "charset": "utf8mb4"}
        session = [
            f"SET SESSION innodb_lock_wait_timeout = {seconds}",
            f"SET SESSION lock_wait_timeout = {seconds}",
            # an empty or lax mode would cut or change what we write without a word
            "SET SESSION sql_mode = 'TRADITIONAL,NO_AUTO_VALUE_ON_ZERO'",
        ]
    try:
        engine = create_engine(
            url, connect_args=connect, pool_pre_ping=True, pool_recycle=3600, isolation_level="READ COMMITTED"
        )
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        driver = url.get_driver_name()
        raise DatabaseRefused(
            f"database {shown(url)!r} needs the Python package {driver}. Run `pip install '{_EXTRAS[driver]}'`."
        ) from error

    def connected(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            for statement in session:
                cursor.execute(statement)
        connection.commit()

    event.listen(engine, "connect", connected)
    return engine


def _sqlite_connected(connection: sqlite3.Connection, _record: object) -> None:
    # the driver's own BEGIN comes too late (at the first write) and is always deferred; ours is in _sqlite_begin
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")  # an intent must survive a power cut as well as a kill
    # Changing the journal mode does not wait for locks, so two first starters may collide.
    for attempt in range(20):
        try:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal":
                return
        except sqlite3.OperationalError:
            if attempt == 19:  # noqa: PLR2004  the last
                raise
        time.sleep(0.05)


def _sqlite_begin(connection: Connection) -> None:
    # IMMEDIATE takes the write lock now: a write that starts as a read fails at once when another got in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("write") else "BEGIN")


class Database:
    """One database and one cluster in it: transactions, errors in our words, and the check of the fencing token."""

    def __init__(self, url: str, cluster: str, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.url = parse_url(url)
        self.cluster = cluster
        self.dialect = self.url.get_backend_name()
        self._file = Path(str(self.url.database)) if self.dialect == "sqlite" else None
        if self._file:
            require_local(self._file)
        self._engine = make_engine(self.url, busy_timeout_s=busy_timeout_s)
        self._checked = False
        self._inode: tuple[int, int] | None = None

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._transaction(write=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; committed at the end, rolled back on any exception."""
        with self._transaction(write=True) as connection:
            yield connection

    @contextmanager
    def controlled(self, token: int) -> Iterator[Connection]:
        """A write that commits only while `token` is the newest of the controller lease, else StoreConflict.

        The lease's row stays locked until the commit, so that nobody can take the lease in between.
        """
        with self._transaction(write=True) as connection:
            newest = self._newest_token(connection, lock=True)
            if newest != token:
                raise StoreConflict(
                    f"controller token {token} is stale: the lease's newest is {newest}. "
                    "Another slurmextd has taken over; this one must stop acting."
                )
            yield connection

    def newest_token(self) -> int | None:
        """The newest token of the controller lease; None before the first."""
        with self._transaction(write=False) as connection:
            return self._newest_token(connection)

    def _newest_token(self, connection: Connection, *, lock: bool = False) -> int | None:
        query = select(Lease.token).where(Lease.cluster == self.cluster, Lease.name == CONTROLLER)
        return connection.execute(query.with_for_update() if lock else query).scalar()

    def close(self) -> None:
        """Let go of connections."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        self._follow_file()
        with translated(self.url), self._engine.connect() as connection:
            if not self._checked:
                self._check_schema(connection)
            with connection.execution_options(write=write).begin():
                yield connection

    def _follow_file(self) -> None:
        """Open connections would go on writing to a deleted or replaced SQLite file; reconnect to what is there."""
        if self._file is None:
            return
        try:
            status = self._file.stat()
        except FileNotFoundError as error:
            raise StoreUnavailable(f"state database {shown(self.url)}: no such file. {revisions.REMEDY}") from error
        except OSError as error:
            raise StoreUnavailable(
                f"state database {shown(self.url)}: {error.strerror}. Only its owner may read it."
            ) from error
        inode = (status.st_dev, status.st_ino)
        if inode != self._inode:
            self._engine.dispose()
            self._checked = False
            self._inode = inode

    def _check_schema(self, connection: Connection) -> None:
        with connection.begin():
            found = revisions.stored(connection)
        revisions.require_current(found, shown(self.url))
        self._checked = True


@contextmanager
def translated(url: URL, remedy: str = "It is tried again at the next cycle.") -> Iterator[None]:
    """Turn what drivers and SQLAlchemy raise into StoreUnavailable."""
    try:
        yield
    except SchemaMismatch:
        raise
    except (SQLAlchemyError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        # drivers give (number, words) or words alone
        words = " ".join(str(cause.args[-1] if cause.args else cause).split()).rstrip(".")
        raise StoreUnavailable(f"state database {shown(url)}: {words}. {remedy}") from error
