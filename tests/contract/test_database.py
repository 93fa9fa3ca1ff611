"""What only a real database can show: races between processes, takeovers, clusters side by side."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from slurmext.adapters.sql import SqlStore, migrate
from slurmext.adapters.sql.errors import DatabaseRefused, SchemaMismatch
from slurmext.adapters.sql.models import Plan
from slurmext.errors import StoreConflict, StoreUnavailable
from slurmext.model.state import (
    ActionKind,
    CheckpointRecord,
    Event,
    Intent,
    JobKey,
    JobRow,
    PreemptionRecord,
)
from tests.contract.databases import controller
from tests.contract.records import KEY

if TYPE_CHECKING:
    from pathlib import Path


RACER = """
import json, random, sys, time
from slurmext.adapters.sql import SqlStore
from slurmext.adapters.sql.models import Plan
from slurmext.errors import StoreConflict
url, me, skew_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
store = SqlStore(url, cluster="race", busy_timeout_s=20)
print("ready", flush=True)
sys.stdin.readline()
won, refused = set(), 0
for _ in range(200):
    time.sleep(random.uniform(0, 0.005))  # or SQLite, whose waiters sleep, lets one process win all the time
    lease = store.acquire_lease("controller", me, 0, time.time() + skew_s)  # over at once: always worth a fight
    if lease is None:
        continue
    won.add(lease.token)
    time.sleep(random.uniform(0, 0.005))  # time for the other to take over
    try:
        store.record_plan(lease.token, 0, {"by": me}, [])
    except StoreConflict:
        refused += 1
print(json.dumps({"won": sorted(won), "refused": refused}))
"""


def test_two_processes_never_share_a_token(store_url: str) -> None:
    """Two daemons fight from the first insert on, one's clock ahead: no token goes to both, no stale write lands."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, store_url, name, skew_s],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, skew_s in (("a", "0"), ("b", "0.002"))
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    results = [json.loads(racer.communicate(timeout=60)[0]) for racer in racers]
    a, b = (set(result["won"]) for result in results)
    assert a
    assert b
    assert not a & b
    assert min(a | b) == 1
    assert results[0]["refused"] + results[1]["refused"] > 0
    store = SqlStore(store_url, cluster="race")
    with store._db.read() as connection:
        written = connection.execute(select(Plan.token).order_by(Plan.id)).scalars().all()
    assert written == sorted(written)  # no write of a token after one of a newer token
    store.close()


def test_takeover_waits_for_the_write_in_hand(store_url: str) -> None:
    """A token that was checked stays good until its transaction ends; only then can another take the lease."""
    first, token = controller(store_url)
    second = SqlStore(store_url, cluster="c1")
    order: list[str] = []

    def take_over() -> None:
        assert second.acquire_lease("controller", "second", 15, 9000.0).token == token + 1
        order.append("taken")

    thread = threading.Thread(target=take_over)
    with first._db.controlled(token):
        thread.start()
        time.sleep(0.5)
        order.append("commit")
    thread.join(10)
    assert order == ["commit", "taken"]
    with pytest.raises(StoreConflict):
        first.save_jobs(token, [JobRow(job=KEY)])
    first.close()
    second.close()


def test_returning_controller_reads_what_others_wrote(store_url: str) -> None:
    """A daemon that lost the lease and got it back compares with the database, not with its memory."""
    first, token = controller(store_url)
    first.save_jobs(token, [JobRow(job=KEY, state="running")])
    second = SqlStore(store_url, cluster="c1")
    second.save_jobs(second.acquire_lease("controller", "second", 15, 2000.0).token, [JobRow(job=KEY, state="pending")])
    assert [row.state for row in first.jobs()] == ["pending"]
    again = first.acquire_lease("controller", "first", 15, 3000.0).token
    first.save_jobs(again, [JobRow(job=KEY, state="running")])
    assert [row.state for row in first.jobs()] == ["running"]
    first.close()
    second.close()


def test_store_sees_what_others_record(store_url: str) -> None:
    """What is followed in memory is still the database's: checkpoints and evictions written by another process."""
    first, token = controller(store_url)
    other = SqlStore(store_url, cluster="c1")
    keys = [JobKey(job_id=str(n), submit_s=1) for n in range(1000)]
    ids = [key.job_id for key in keys]

    def record(at_s: float) -> None:
        other.record_checkpoint(
            CheckpointRecord(job_id="7", step=1, path="/c", size_bytes=1, saved_s=at_s, confirmed_s=at_s, node="n1")
        )
        other.record_preemption(
            token,
            PreemptionRecord(
                victim=keys[7],
                victim_user="u",
                beneficiary="1",
                reason="R",
                from_queue="a",
                to_queue="b",
                gpus=1,
                lost_gpu_s=1,
                signalled_s=None,
                confirmed_s=None,
                ended_s=at_s,
            ),
        )

    for turn in (1, 2, 3):
        record(turn)
        assert first.last_checkpoints(ids)["7"].saved_s == turn
        assert first.preemption_counts(keys)[keys[7]] == turn
    other.prune(token, 10)
    assert first.last_checkpoints(ids) == {}
    record(4)
    assert first.last_checkpoints(ids)["7"].saved_s == 4
    first.close()
    other.close()


def test_clusters_are_apart(store_url: str) -> None:
    """Two clusters in one database have leases, jobs, events and policies of their own."""
    one, token = controller(store_url)
    two = SqlStore(store_url, cluster="c2")
    one.save_jobs(token, [JobRow(job=KEY)])
    one.record_event(Event(at_s=1, source="daemon", kind="k"), dedup="1")
    one.apply_policy("version: 1", "root", 1)
    [action] = one.record_plan(token, 1, {}, [Intent(kind=ActionKind.HOLD, job=KEY, reason="")])
    assert two.current_lease("controller") is None
    assert two.jobs() == two.events() == two.actions() == two.policy_versions() == []
    assert two.acquire_lease("controller", "other", 15, 1.0).token == 1
    assert two.record_event(Event(at_s=1, source="daemon", kind="k"), dedup="1")
    two.prune(1, 1e9)
    assert one.actions() == [action]
    assert len(one.events()) == 1
    one.close()
    two.close()


def test_password_is_never_shown() -> None:
    """An unreachable server's message names the URL without the password."""
    pytest.importorskip("psycopg")
    store = SqlStore("postgresql://me:s3cret@127.0.0.1:9/state")
    with pytest.raises(StoreUnavailable) as caught:
        store.jobs()
    assert "s3cret" not in str(caught.value)
    assert "postgresql://me:***@127.0.0.1:9/state" in str(caught.value)


def test_sqlite_runs_in_wal_with_foreign_keys(tmp_path: Path) -> None:
    """Readers do not block the writer, deleting a plan takes its actions along, and commits survive a power cut."""
    url = f"sqlite:///{tmp_path}/state.db"
    migrate(url)
    store = SqlStore(url)
    with store._db.read() as connection:
        pragma = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
        }
    assert pragma == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 5000, "synchronous": 2}
    store.close()


def test_store_is_safe_between_threads(store_url: str) -> None:
    """The daemon's timers and the agents' connections share one store."""
    store, token = controller(store_url, busy_timeout_s=30)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(20):
                store.record_event(Event(at_s=n, source="daemon", kind="k"), dedup=f"{n}")
                store.save_jobs(token, [JobRow(job=JobKey(job_id=str(n), submit_s=number))])
                store.jobs()
        except BaseException as failure:  # noqa: BLE001  told to the test below
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.events()) == 20
    assert len(store.jobs()) == 120
    store.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("state.db", "not a database URL"),
        ("oracle://x/y", "oracle is not supported"),
        ("sqlite://", "forgotten at exit"),
        ("sqlite:///:memory:", "forgotten at exit"),
        ("postgresql://host", "names no database"),
    ],
)
def test_unsuitable_url_is_refused_with_an_example(url: str, words: str) -> None:
    """What cannot serve is said at once, with a URL that can."""
    with pytest.raises(DatabaseRefused, match=words) as caught:
        SqlStore(url)
    assert "sqlite:////var/lib/slurmext/state.db" in str(caught.value)


def test_store_needs_the_newest_schema(tmp_path: Path) -> None:
    """An empty database and one of a newer slurmext are told apart, and neither is touched."""
    url = f"sqlite:///{tmp_path}/state.db"
    sqlite3.connect(tmp_path / "state.db").close()
    with pytest.raises(SchemaMismatch, match=r"no slurmext tables.*slurmext install"):
        SqlStore(url).jobs()
    migrate(url)
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("UPDATE slurmext_schema SET version_num = '9999'")
    for call in (SqlStore(url).jobs, lambda: migrate(url)):
        with pytest.raises(SchemaMismatch, match=r"schema 9999, newer than .* \(\d{4}\).*Upgrade slurmext"):
            call()


def test_importing_the_package_does_not_import_sqlalchemy() -> None:
    """Commands that need no database do not pay for one."""
    code = "import sys, slurmext.adapters.sql; sys.exit('sqlalchemy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0
