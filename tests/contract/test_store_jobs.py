"""What every store promises of jobs and policies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slurmext.model.queue import Queue
from slurmext.model.state import (
    ActionState,
    Event,
    JobKey,
)
from tests.contract.records import OTHER, ROW, evict

# policy


def test_policies_are_numbered_and_kept(store: Any) -> None:
    """Every applied policy stays, newest first; the newest is in force."""
    assert store.current_policy() is None
    assert store.policy_versions() == []
    text = "version: 1\nqueues: {prod: {guaranteed: 16}}  # Größe\n" + "#" * 100_000
    first = store.apply_policy(text, "root", 1000.5)
    assert (first.version, first.document, first.applied_by, first.applied_s) == (1, text, "root", 1000.5)
    second = store.apply_policy("version: 1\n", "ann", 1001, queues=[Queue(path="a"), Queue(path="a/b", max=3)])
    assert store.current_policy() == second
    assert store.policy_versions() == [second, first]
    assert store.policy_versions(limit=1) == [second]


def test_job_comes_back_as_it_was_saved(store: Any, token: int) -> None:
    """Every field survives."""
    store.save_jobs(token, [ROW])
    assert store.jobs() == [ROW]


def test_saving_again_replaces_the_row(store: Any, token: int) -> None:
    """The key decides: same key is an update, another submit time another job."""
    store.save_jobs(token, [ROW])
    changed = replace(ROW, state="pending", nodes="", start_s=None, ckpt=None, updated_s=1001.0)
    reused = replace(ROW, job=JobKey(job_id="12", submit_s=9000))
    store.save_jobs(token, [changed, reused])
    assert store.jobs(job_ids=["12"]) == [changed, reused]


def test_row_that_only_says_it_was_looked_at_is_not_written(store: Any, token: int) -> None:
    """`updated_s` tells when something else changed, so it alone changes nothing."""
    store.save_jobs(token, [ROW])
    store.save_jobs(token, [replace(ROW, updated_s=2000)])
    assert store.jobs() == [ROW]


def test_back_and_forth_in_one_batch_ends_at_the_last(store: Any, token: int) -> None:
    """Of the same job twice in a batch the last row counts, even when it is what is stored."""
    store.save_jobs(token, [ROW])
    store.save_jobs(token, [replace(ROW, state="pending"), ROW])
    assert store.jobs() == [ROW]
    store.save_jobs(token, [ROW, replace(ROW, state="pending")])
    assert store.jobs()[0].state == "pending"


def test_ended_jobs_are_left_out_unless_asked_for(store: Any, token: int) -> None:
    """Active jobs have no end time."""
    ended = replace(ROW, job=OTHER, end_s=1100.0, state="completed")
    store.save_jobs(token, [ended, ROW])
    assert store.jobs() == [ROW]
    assert store.jobs(active=False) == [ROW, ended]
    assert store.jobs(job_ids=["13_4"]) == []
    assert store.jobs(job_ids=["13_4", "99"], active=False) == [ended]
    assert store.jobs(job_ids=[], active=False) == []


def test_jobs_are_filtered_and_the_last_ones_given(store, token):
    """Every filter narrows; a limit leaves the newest submissions, still oldest first."""
    rows = [
        replace(
            ROW,
            job=JobKey(job_id=str(n), submit_s=100 + n),
            user="alice" if n % 2 else "bob",
            queue=("prod/chat", "prod", "production", "PROD/chat")[n % 4],
            state="completed" if n < 4 else "running",
            end_s=float(n) if n < 4 else None,
        )
        for n in range(8)
    ]
    store.save_jobs(token, rows)

    def ids(**filters: object) -> str:
        return "".join(row.job.job_id for row in store.jobs(**filters))

    assert ids(active=False) == "01234567"
    assert ids(active=False, limit=3) == "567"
    assert ids(limit=2) == "67"
    assert ids(user="alice") == "57"
    assert ids(active=False, user="alice", limit=3) == "357"
    assert ids(active=False, queue="prod") == "0145"
    assert ids(active=False, queue="prod/chat") == "04"
    assert ids(active=False, state="completed", limit=2) == "23"
    assert ids(active=False, ended_since_s=2) == "234567"
    assert ids(active=False, ended_since_s=2, user="bob", limit=2) == "46"
    assert ids(job_ids=["1", "5", "6"], active=False, limit=2) == "56"
    assert ids(limit=0) == ids(user="carol") == ids(active=False, state="lost") == ""


def test_job_that_ended_can_be_written_again(store: Any, token: int) -> None:
    """An ended job that Slurm requeues after all lives again."""
    store.save_jobs(token, [replace(ROW, end_s=1100.0)])
    store.acquire_lease("controller", "second", 15, 5000)
    store.save_jobs(token + 1, [ROW])
    assert store.jobs() == [ROW]


@pytest.mark.parametrize("name", ["nul\0byte", "half \udcff character", "x" * 100_000, "', DROP TABLE jobs; --%s:a"])
def test_no_job_name_stops_the_controller(store: Any, token: int, name: str) -> None:
    """Names come from users; whatever one holds, this job and the others are stored."""
    store.save_jobs(token, [replace(ROW, name=name, message=name), replace(ROW, job=OTHER)])
    assert len(store.jobs()) == 2
    assert store.record_event(Event(at_s=1, source="daemon", kind="x", message=name, detail={"name": name}))
    [action] = store.record_plan(token, 1, {"name": name}, [evict(name=name)])
    store.advance(token, action.id, ActionState.FAILED, 2, message=name)


def test_ids_and_queues_differ_by_case(store: Any, token: int) -> None:
    """`A` and `a` are two jobs' ids, whatever the database's habits."""
    rows = [replace(ROW, job=JobKey(job_id=job_id, submit_s=1)) for job_id in ("A", "a", "á")]
    store.save_jobs(token, rows)
    assert sorted(row.job.job_id for row in store.jobs()) == ["A", "a", "á"]
    assert [row.job.job_id for row in store.jobs(job_ids=["a"])] == ["a"]


def test_thousands_of_jobs_in_one_call(store: Any, token: int) -> None:
    """Bulk writes and long lists of ids pass every database's limits."""
    rows = [replace(ROW, job=JobKey(job_id=str(n), submit_s=n)) for n in range(2500)]
    store.save_jobs(token, rows)
    assert store.jobs(job_ids=[str(n) for n in range(5000)]) == rows
