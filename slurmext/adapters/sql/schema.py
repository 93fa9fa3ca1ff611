"""Create, upgrade and downgrade the tables. `python -m slurmext.adapters.sql.schema URL` does it by hand.

The alembic environment is in `migrations` beside this file, so that an installed package can migrate; `sql/` at the
top of the repository is a link to it.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, inspect, text

from slurmext.adapters.sql import revisions
from slurmext.adapters.sql.engine import make_engine, parse_url, shown, translated
from slurmext.adapters.sql.errors import DatabaseRefused
from slurmext.adapters.sql.filesystem import prepare
from slurmext.errors import SlurmextError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOCK_TIMEOUT_S = 60.0
"""How long a migration waits for another process's."""

_LOCK = 6_830_001  # any number that other applications of the server are unlikely to lock
_REMEDY = "Nothing is half done that the next migration would not finish; mend the cause and migrate again."
_LOCK_NAME = "slurmext-migrate"


def migrate(url: str) -> str:
    """Bring the database to the newest schema, creating what is missing. Safe to call from several processes.

    Returns the revision. Raises DatabaseRefused (unsuitable place), SchemaMismatch (made by a newer slurmext),
    StoreUnavailable.
    """
    newest = revisions.known()[-1]
    _run(url, lambda config: command.upgrade(config, newest))
    return newest


def downgrade(url: str, revision: str) -> None:
    """Go back to an older revision; `base` drops everything of ours. What the older schema has no place for is lost."""
    if revision != "base" and revision not in revisions.known():
        raise SlurmextError(f"revision {revision!r} is unknown. Known: base, {', '.join(revisions.known())}.")
    _run(url, lambda config: command.downgrade(config, revision))


def alembic_config(connection: Connection | None = None) -> Config:
    """The configuration of alembic's commands, without a file."""
    config = Config()
    config.set_main_option("script_location", str(revisions.MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _run(url: str, step: Callable[[Config], None]) -> None:
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        prepare(Path(str(parsed.database)))
    engine = make_engine(parsed, busy_timeout_s=LOCK_TIMEOUT_S)
    try:
        with translated(parsed, _REMEDY), engine.connect() as connection, _locked(connection):
            _refuse_slurmdbd(connection, shown(parsed))
            revisions.require_known(revisions.stored(connection), shown(parsed))
            step(alembic_config(connection))
    except CommandError as error:
        raise StoreUnavailable(f"state database {shown(parsed)}: {error}") from error
    finally:
        engine.dispose()


@contextmanager
def _locked(connection: Connection) -> Iterator[None]:
    """Hold a lock that ends with the connection, and one transaction where the database can roll back DDL."""
    dialect = connection.dialect.name
    if dialect == "mysql":
        # DDL commits by itself here, so the lock must not belong to a transaction
        got = connection.execute(text("SELECT GET_LOCK(:name, :s)"), {"name": _LOCK_NAME, "s": LOCK_TIMEOUT_S}).scalar()
        if got != 1:
            raise StoreUnavailable(f"another process has been migrating the database for {LOCK_TIMEOUT_S:.0f} s.")
        try:
            yield
            connection.commit()
        finally:
            connection.rollback()
            connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": _LOCK_NAME})
        return
    with connection.execution_options(write=True).begin():
        if dialect == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        yield


def _refuse_slurmdbd(connection: Connection, database: str) -> None:
    if {"acct_table", "clus_res_table", "qos_table"} <= set(inspect(connection).get_table_names()):
        raise DatabaseRefused(
            f"database {database} is slurmdbd's, which slurmext never writes to. Create one of its own: "
            "CREATE DATABASE slurmext;"
        )


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004
        sys.exit("usage: python -m slurmext.adapters.sql.schema URL")
    try:
        print(f"schema {migrate(sys.argv[1])}")  # noqa: T201  a command
    except SlurmextError as problem:
        sys.exit(str(problem))
