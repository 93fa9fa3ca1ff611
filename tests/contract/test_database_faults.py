"""A database that is locked, lost, stopped or damaged: nothing half written, an error that says what to do."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import insert, text

from slurmext.adapters.sql import SqlStore, migrate
from slurmext.adapters.sql.models import Plan
from slurmext.errors import StoreConflict, StoreUnavailable
from slurmext.model.state import (
    ActionKind,
    Intent,
    JobRow,
)
from slurmext.testing import database_server
from tests.contract.databases import controller
from tests.contract.records import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_locked_database_is_unavailable_and_recovers(store_url: str) -> None:
    """While another transaction holds the lock a write gives up in time and says so; afterwards all goes on."""
    store, token = controller(store_url, busy_timeout_s=1)
    other = SqlStore(store_url, cluster="c1")
    with other._db.controlled(token):
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"(?i)lock") as caught:
            store.save_jobs(token, [JobRow(job=KEY)])
        assert time.monotonic() - start < 5
        assert caught.value.__cause__ is not None
        assert store.jobs() == []  # readers do not wait
    store.save_jobs(token, [JobRow(job=KEY)])
    assert len(store.jobs()) == 1
    store.close()
    other.close()


def drop_connections(store: SqlStore, connection: Any) -> None:
    """The server closes every other connection, as it would at its restart."""
    if store._db.dialect == "postgresql":
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        connection.execute(text(f"{others} AND pid <> pg_backend_pid()"))
        return
    for (number,) in connection.execute(
        text("SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()")
    ).all():
        connection.execute(text(f"KILL {number}"))


def test_lost_connection_in_a_write_leaves_nothing_behind(store_url: str) -> None:
    """A connection lost between a plan and its commit writes neither plan nor intent; the next call connects again."""
    if store_url.startswith("sqlite"):
        pytest.skip("SQLite has no connection to lose")
    store, token = controller(store_url)
    killer = SqlStore(store_url, cluster="c1")

    def lose_it_halfway() -> None:
        with store._db.controlled(token) as connection:
            connection.execute(insert(Plan).values(cluster="c1", token=token, created_s=1, summary={}))
            with killer._db.read() as other:
                drop_connections(killer, other)

    with pytest.raises(StoreUnavailable):
        lose_it_halfway()
    with killer._db.read() as other:
        assert other.execute(text("SELECT COUNT(*) FROM plans")).scalar() == 0
    store.save_jobs(token, [JobRow(job=KEY)])
    with killer._db.read() as other:
        drop_connections(killer, other)
    assert len(store.jobs()) == 1  # idle connections are found dead and replaced without an error
    store.close()
    killer.close()


def test_process_killed_in_a_write_leaves_nothing_behind(store_url: str) -> None:
    """Kill -9 between the intents and their commit: no plan, no action, and the lock is free."""
    store, token = controller(store_url)
    victim = subprocess.Popen(
        [
            sys.executable,
            "-c",
            (
                "import sys, time\n"
                "from sqlalchemy import insert\n"
                "from slurmext.adapters.sql import SqlStore\n"
                "from slurmext.adapters.sql.models import Plan\n"
                "db = SqlStore(sys.argv[1], cluster='c1')._db\n"
                "with db.controlled(int(sys.argv[2])) as connection:\n"
                "    connection.execute(insert(Plan).values(cluster='c1', token=1, created_s=1, summary={}))\n"
                "    print('written', flush=True)\n"
                "    time.sleep(60)\n"
            ),
            store_url,
            str(token),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert victim.stdout.readline() == "written\n"
    victim.kill()
    victim.communicate()
    [action] = store.record_plan(token, 1, {}, [Intent(kind=ActionKind.HOLD, job=KEY, reason="")])
    assert store.open_actions() == [action]
    with store._db.read() as connection:
        assert connection.execute(text("SELECT COUNT(*) FROM plans")).scalar() == 1
    store.close()


@contextmanager
def stoppable(kind: str) -> Iterator[tuple[str, Any]]:
    """URL of a migrated database on a server of its own, and what stops it."""
    import contextlib

    import sqlalchemy

    from slurmext.adapters.sql.engine import parse_url

    with contextlib.ExitStack() as stack:
        try:
            template = stack.enter_context(getattr(database_server, kind)())
        except database_server.ServerMissing as reason:
            pytest.skip(str(reason))
        admin = sqlalchemy.create_engine(
            parse_url(template.format("postgres" if kind == "postgresql" else "mysql")), isolation_level="AUTOCOMMIT"
        )
        with admin.connect() as connection:
            connection.execute(sqlalchemy.text("CREATE DATABASE state"))
        admin.dispose()
        migrate(template.format("state"))
        yield template.format("state"), stack.close


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_stopped_server_is_unavailable_within_seconds(kind: str) -> None:
    """Without its server every call raises StoreUnavailable soon, with the URL but without its password."""
    with stoppable(kind) as (url, stop):
        store, token = controller(url)
        stop()
        start = time.monotonic()
        with pytest.raises(StoreUnavailable, match="state database"):
            store.save_jobs(token, [JobRow(job=KEY)])
        with pytest.raises(StoreUnavailable):
            store.acquire_lease("controller", "first", 15, 1001)
        assert time.monotonic() - start < 15
        store.close()


def test_deleted_sqlite_file_is_unavailable(tmp_path: Path) -> None:
    """A file deleted under a running daemon stops its writes; nothing is written to a file without a name."""
    url = f"sqlite:///{tmp_path}/state.db"
    migrate(url)
    store, token = controller(url)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(StoreUnavailable, match="no such file"):
        store.save_jobs(token, [JobRow(job=KEY)])
    assert list(tmp_path.iterdir()) == []
    store.close()


def test_missing_sqlite_file_is_not_created(tmp_path: Path) -> None:
    """Only a migration creates a database; a store says what to run."""
    store = SqlStore(f"sqlite:///{tmp_path}/state.db")
    with pytest.raises(StoreUnavailable, match=r"no such file.*slurmext install"):
        store.jobs()
    assert list(tmp_path.iterdir()) == []


def test_corrupt_sqlite_file_is_unavailable(tmp_path: Path) -> None:
    """A file that is no database is an error to read, and stays as it is."""
    file = tmp_path / "state.db"
    file.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreUnavailable, match="not a database"):
        SqlStore(f"sqlite:///{file}").jobs()
    assert file.read_bytes() == b"not a database" * 1000


def test_replaced_sqlite_file_is_followed(tmp_path: Path) -> None:
    """A database restored from a backup under a running daemon is the one that counts: the old token is stale."""
    url = f"sqlite:///{tmp_path}/state.db"
    migrate(url)
    store, token = controller(url)
    for path in tmp_path.iterdir():
        path.unlink()
    migrate(url)
    with pytest.raises(StoreConflict):
        store.save_jobs(token, [JobRow(job=KEY)])
    assert store.acquire_lease("controller", "first", 15, 1).token == 1
    store.close()
