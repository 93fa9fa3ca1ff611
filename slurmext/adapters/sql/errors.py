"""Errors of the database, in words that say what to do."""

from __future__ import annotations

from typing import Final

from sqlalchemy.exc import DBAPIError

from slurmext.errors import StoreUnavailable, UsageError

_DEADLOCKS: Final = {1213, "40P01"}
"""MariaDB's number, PostgreSQL's SQLSTATE."""


class SchemaMismatch(StoreUnavailable):
    """The database's tables are not those this slurmext knows: migrate the database, or upgrade slurmext."""


class DatabaseRefused(UsageError):
    """The database URL names a place where state must not be kept."""


def is_deadlock(error: BaseException) -> bool:
    """Whether a transaction was undone because it and another waited for each other: the same again may succeed."""
    cause = error.__cause__
    driver = cause.orig if isinstance(cause, DBAPIError) else None
    return driver is not None and {getattr(driver, "sqlstate", None), *driver.args[:1]} & _DEADLOCKS != set()
