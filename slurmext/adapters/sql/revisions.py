"""Which schema this code knows, and which one a database has; without importing alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from slurmext.adapters.sql.errors import SchemaMismatch

MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "slurmext_schema"
REMEDY = "Run `slurmext install` (or `python -m slurmext.adapters.sql.schema URL`) to create or migrate it."


def known() -> list[str]:
    """Revisions in order. They are numbers in a row and begin their files' names: `0001_state.py`."""
    return sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def stored(connection: Connection) -> str | None:
    """The database's revision; None when it has no tables of ours."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608  a constant


def require_known(found: str | None, database: str) -> None:
    """Raise SchemaMismatch when the schema was made by a newer slurmext."""
    if found is not None and found not in known():
        raise SchemaMismatch(
            f"state database {database} has schema {found}, newer than this slurmext knows ({known()[-1]}). "
            "Upgrade slurmext on this machine, or restore the backup made before the migration."
        )


def require_current(found: str | None, database: str) -> None:
    """Raise SchemaMismatch unless the schema is exactly the newest this code knows."""
    require_known(found, database)
    if found is None:
        raise SchemaMismatch(f"state database {database} has no slurmext tables. {REMEDY}")
    if found != known()[-1]:
        raise SchemaMismatch(
            f"state database {database} has schema {found}, this slurmext needs {known()[-1]}. {REMEDY}"
        )
