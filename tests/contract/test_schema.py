"""Migrations on every database, and the views they make."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from slurmext.adapters.sql import SqlStore, downgrade, migrate, revisions, schema
from slurmext.adapters.sql.engine import make_engine, parse_url
from slurmext.adapters.sql.errors import DatabaseRefused
from slurmext.adapters.sql.models import Base
from slurmext.errors import SlurmextError
from slurmext.model.queue import Queue
from slurmext.model.state import (
    ActionKind,
    ActionState,
    CheckpointRecord,
    Event,
    Intent,
    JobKey,
    JobRow,
    PreemptionRecord,
)

VIEWS = {"queue_usage", "preemption_ledger", "job_timeline", "checkpoint_age"}


def everything(url: str) -> tuple[set[str], set[str]]:
    """Names of the tables and of the views."""
    engine = make_engine(parse_url(url))
    found = sqlalchemy.inspect(engine)
    names = set(found.get_table_names()), set(found.get_view_names())
    engine.dispose()
    return names


def differences(url: str) -> list[Any]:
    """What alembic would still change to make the database what the models say."""
    engine = make_engine(parse_url(url))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": revisions.VERSION_TABLE, "compare_type": True}
        )
        found = compare_metadata(context, Base.metadata)
    engine.dispose()
    return found


def test_migrations_make_exactly_the_models(empty_url: str) -> None:
    """Tables, columns, types, indexes and keys of the migrated database are the models'."""
    assert migrate(empty_url) == revisions.known()[-1]
    assert differences(empty_url) == []
    tables, views = everything(empty_url)
    assert tables == {*Base.metadata.tables, revisions.VERSION_TABLE}
    assert views == VIEWS


def test_table_options_are_the_models(store_url: str) -> None:
    """What alembic does not compare: MariaDB's collation (ids differ by case), SQLite's ids that never come back."""
    if store_url.startswith("postgresql"):
        pytest.skip("PostgreSQL's tables have no options of ours")
    query = "SELECT table_name, table_collation FROM information_schema.tables WHERE table_schema = DATABASE()"
    if store_url.startswith("sqlite"):
        query = "SELECT name, sql LIKE '%AUTOINCREMENT%' FROM sqlite_master"
    engine = make_engine(parse_url(store_url))
    with engine.connect() as connection:
        found = dict(tuple(row) for row in connection.execute(sqlalchemy.text(query)))
    engine.dispose()
    for name, table in Base.metadata.tables.items():
        if store_url.startswith("sqlite"):
            assert bool(found[name]) == bool(table.dialect_options["sqlite"]["autoincrement"]), name
        else:
            assert found[name] == table.dialect_options["mysql"]["collate"], name


def test_migrating_again_changes_nothing(store_url: str) -> None:
    """A current database is left alone, with what is in it."""
    store = SqlStore(store_url)
    store.acquire_lease("controller", "a", 15, 1)
    migrate(store_url)
    assert store.current_lease("controller").token == 1
    store.close()


def test_every_step_goes_back_and_forth(store_url: str) -> None:
    """Down to nothing and up again gives the same schema, step by step as well."""
    for revision in [*reversed(revisions.known()[:-1]), "base"]:
        downgrade(store_url, revision)
    tables, views = everything(store_url)
    assert tables == {revisions.VERSION_TABLE}
    assert views == set()
    migrate(store_url)
    assert differences(store_url) == []
    assert everything(store_url)[1] == VIEWS


def test_unknown_revision_is_refused(tmp_path: Path) -> None:
    """A revision that does not exist is named with those that do."""
    with pytest.raises(SlurmextError, match=r"'0000' is unknown. Known: base, 0001"):
        downgrade(f"sqlite:///{tmp_path}/state.db", "0000")


def test_two_processes_may_migrate_at_once(empty_url: str) -> None:
    """An installer and a starting daemon may both create the schema; both succeed."""
    command = [sys.executable, "-m", "slurmext.adapters.sql.schema", empty_url]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert differences(empty_url) == []


def test_interrupted_migration_is_finished_by_the_next(empty_url: str) -> None:
    """MariaDB keeps the tables of a migration that was killed; the next run adds the rest."""
    if not empty_url.startswith("mariadb"):
        pytest.skip("SQLite and PostgreSQL roll DDL back")
    migrate(empty_url)
    engine = make_engine(parse_url(empty_url))
    with engine.begin() as connection:
        for statement in (
            f"DELETE FROM {revisions.VERSION_TABLE}",
            "DROP VIEW queue_usage",
            "DROP TABLE slices",
            "DROP TABLE extensions",
            "DROP INDEX ix_jobs_cluster_end_s ON jobs",
        ):
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()
    migrate(empty_url)
    assert differences(empty_url) == []
    assert everything(empty_url)[1] == VIEWS


def test_database_of_slurmdbd_is_refused(empty_url: str) -> None:
    """Pointed at slurmdbd's database by mistake, slurmext writes nothing there."""
    engine = make_engine(parse_url(empty_url)) if not empty_url.startswith("sqlite") else None
    if engine is None:
        pytest.skip("slurmdbd does not use SQLite")
    tables = {"acct_table", "clus_res_table", "qos_table"}
    with engine.begin() as connection:
        for table in tables:
            connection.execute(sqlalchemy.text(f"CREATE TABLE {table} (id INT)"))
    with pytest.raises(DatabaseRefused, match="slurmdbd"):
        migrate(empty_url)
    assert everything(empty_url)[0] == tables
    engine.dispose()


def test_revisions_are_numbered_in_a_row() -> None:
    """File names, revisions and their order are what alembic finds, so the store can check without alembic."""
    script = ScriptDirectory.from_config(schema.alembic_config())
    assert [step.revision for step in script.walk_revisions()][::-1] == revisions.known()
    assert [f"{n:04}" for n in range(1, len(revisions.known()) + 1)] == revisions.known()


def test_top_level_sql_is_the_environment_that_ships() -> None:
    """`sql/` of a checkout is the environment inside the package."""
    checkout = Path(__file__).parents[2] / "sql"
    assert checkout.resolve() == revisions.MIGRATIONS.resolve()
    for name in ("env.py", "alembic.ini", "script.py.mako", "versions", "views"):
        assert (checkout / name).exists()


# views

KEY = JobKey(job_id="12", submit_s=500)


def rows(url: str, query: str) -> list[dict[str, Any]]:
    """What a report reads."""
    engine = make_engine(parse_url(url))
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(sqlalchemy.text(query)).mappings()]
    engine.dispose()
    return found


def test_views_report_what_happened(store_url: str) -> None:
    """Queue usage, ledger with durations, a job's timeline and checkpoint ages, in plain SELECTs."""
    store = SqlStore(store_url, cluster="c1")
    token = store.acquire_lease("controller", "a", 15, 1).token
    store.apply_policy(
        "version: 1", "root", 1, queues=[Queue(path="research", guaranteed=2, max=8), Queue(path="idle", guaranteed=4)]
    )
    job = JobRow(
        job=KEY, name="train", user="alice", queue="research", state="running", gpus=4, start_s=600, nodes="n1"
    )
    waiting = replace(job, job=JobKey(job_id="13", submit_s=510), state="pending", gpus=8, start_s=None)
    gone = replace(job, job=JobKey(job_id="11", submit_s=400), state="completed", end_s=700.0)
    store.save_jobs(token, [job, waiting, gone])
    [action] = store.record_plan(token, 800, {}, [Intent(kind=ActionKind.EVICT, job=KEY, reason="R", message="for 57")])
    store.advance(token, action.id, ActionState.SIGNALLED, 801)
    for saved_s in (650, 805):
        store.record_checkpoint(
            CheckpointRecord(
                job_id="12", step=3, path="/c", size_bytes=1, saved_s=saved_s, confirmed_s=saved_s + 1, node="n1"
            )
        )
    store.record_preemption(
        token,
        PreemptionRecord(
            victim=KEY,
            victim_user="alice",
            beneficiary="57",
            reason="RECLAIM_GUARANTEE",
            from_queue="research",
            to_queue="prod",
            gpus=4,
            lost_gpu_s=7200,
            signalled_s=801,
            confirmed_s=806,
            ended_s=808,
        ),
    )
    store.record_event(Event(at_s=900, source="agent:n1", kind="job_end", job_id="12"))
    store.close()

    usage = {row["queue"]: row for row in rows(store_url, "SELECT * FROM queue_usage")}
    research = usage["research"]
    assert {k: v for k, v in research.items() if k.endswith(("gpus", "jobs"))} == {
        "guaranteed_gpus": 2,
        "max_gpus": 8,
        "running_gpus": 4,
        "pending_gpus": 8,
        "running_jobs": 1,
        "pending_jobs": 1,
        "borrowed_gpus": 2,
    }
    assert (usage["idle"]["guaranteed_gpus"], usage["idle"]["running_gpus"]) == (4, 0)

    [line] = rows(store_url, "SELECT * FROM preemption_ledger")
    assert (line["victim_name"], line["victim_user"], line["lost_gpu_hours"]) == ("train", "alice", 2)
    assert (line["checkpoint_took_s"], line["eviction_took_s"]) == (5, 7)

    timeline = rows(store_url, "SELECT at_s, what FROM job_timeline WHERE job_id = '12' ORDER BY at_s")
    assert [(row["at_s"], row["what"]) for row in timeline] == [
        (500, "submitted"),
        (600, "started"),
        (650, "checkpoint"),
        (800, "evict.intent"),
        (801, "evict.signalled"),
        (805, "checkpoint"),
        (900, "job_end"),
    ]

    ages = {row["job_id"]: row for row in rows(store_url, "SELECT * FROM checkpoint_age")}
    assert set(ages) == {"12", "13"}
    assert (ages["12"]["saved_s"], ages["13"]["saved_s"]) == (805, None)


def test_views_cannot_be_written(store_url: str) -> None:
    """A report that writes by mistake is refused by the database."""
    engine = make_engine(parse_url(store_url))
    for view in sorted(VIEWS):
        with pytest.raises(sqlalchemy.exc.DBAPIError), engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"DELETE FROM {view}"))
    engine.dispose()
