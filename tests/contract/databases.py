"""A database with a controller on it."""

from __future__ import annotations

from typing import Any

from slurmext.adapters.sql import SqlStore


def controller(url: str, **options: Any) -> tuple[SqlStore, int]:
    """A store that holds the lease, and its token."""
    store = SqlStore(url, cluster="c1", **options)
    return store, store.acquire_lease("controller", "first", 15, 1000.0).token
