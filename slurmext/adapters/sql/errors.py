"""Errors of the database, in words that say what to do."""

from __future__ import annotations

from slurmext.errors import StoreUnavailable, UsageError


class SchemaMismatch(StoreUnavailable):
    """The database's tables are not those this slurmext knows: migrate the database, or upgrade slurmext."""


class DatabaseRefused(UsageError):
    """The database URL names a place where state must not be kept."""
