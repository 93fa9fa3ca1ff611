"""The state store in SQL: SQLite, PostgreSQL or MariaDB; one schema (`models`), built by the files in `migrations`.

Importing this package is free; SQLAlchemy (0.3 s) is imported when SqlStore or migrate is first asked for, so that
commands which need no database start fast. May import ports, model and errors only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slurmext.adapters.sql.schema import downgrade, migrate
    from slurmext.adapters.sql.store import SqlStore

__all__ = ["SqlStore", "downgrade", "migrate"]


def __getattr__(name: str) -> Any:
    if name == "SqlStore":
        from slurmext.adapters.sql.store import SqlStore  # noqa: PLC0415  SQLAlchemy only when it is needed

        return SqlStore
    if name in {"migrate", "downgrade"}:
        from slurmext.adapters.sql import schema  # noqa: PLC0415

        return getattr(schema, name)
    raise AttributeError(name)
