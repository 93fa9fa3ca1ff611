"""What `job explain` says of a job's runs, how it ended, and the slices that it had."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from slurmext.model.cluster import JobRecord
from slurmext.model.slice_state import SliceRecord, SliceState
from slurmext.model.state import ActionKind, ActionState, Event, Intent, JobKey, JobRow
from slurmext.service.ended import ended_rows

from .conftest import NOW, row

if TYPE_CHECKING:
    from slurmext.testing.memory_store import MemoryStore

    from .conftest import Run

KEY = JobKey(job_id="80", submit_s=int(NOW) - 600)


def save(store: MemoryStore, *rows: JobRow) -> int:
    lease = store.current_lease("controller")
    assert lease is not None
    store.save_jobs(lease.token, rows)
    return lease.token


def chained(store: MemoryStore) -> None:
    """Job 80 has ended two runs for its time limit, the last one 100 s ago."""
    token = save(store, row("80", user="bob", queue="prod", state="running", gpus=1, ckpt="auto,chain"))
    for at_s in (NOW - 300, NOW - 100):
        intent = Intent(kind=ActionKind.EVICT, job=KEY, reason="TIME_LIMIT", detail={"chain": True})
        (action,) = store.record_plan(token, at_s - 10, {}, [intent])
        store.advance(token, action.id, ActionState.SIGNALLED, at_s - 10, message="sent USR1")
        store.advance(token, action.id, ActionState.REQUEUED, at_s, message="requeued", detail={"requeued_s": at_s})
        store.advance(token, action.id, ActionState.DONE, at_s + 1, message="requeued and held")


def test_a_chain_says_which_run_it_is_and_that_its_limit_ended_the_others(run: Run, store: MemoryStore) -> None:
    """They read like nobody's preemption."""
    chained(store)
    save(store, row("80", user="bob", queue="prod", state="running", gpus=1, restarts=2, start_s=NOW - 90, nodes="n1"))
    said = run("job", "explain", "80").output
    assert "This is run 3: it was requeued 2 times, 2 of at most 1000 for its time limit (--ckpt=…,chain)." in said
    assert said.count("its time limit is near, sent USR1") == 2
    assert "Preempted" not in said
    assert "This is run 3" in run("job", "show", "80").output


@pytest.mark.parametrize("command", ["explain", "show"])
def test_between_its_runs_it_waits_since_the_last_one_ended(run: Run, store: MemoryStore, command: str) -> None:
    """Not since it was submitted."""
    chained(store)
    save(store, row("80", user="bob", queue="prod", state="pending", gpus=1, restarts=2, reason="QUEUE_MAX"))
    lines = run("job", command, "80").output.splitlines()
    assert lines[0].endswith("(1 min 39 s).")
    assert lines[1].startswith("It was requeued 2 times, 2 of at most 1000")


def test_a_run_that_nobody_saw_end_has_ended_when_it_waited_again(run: Run, store: MemoryStore) -> None:
    """Requeued by Slurm after a lost node: what it waited for tells."""
    history = f"QUEUE_MAX@{int(NOW) - 600} -@{int(NOW) - 500} QUEUE_MAX@{int(NOW) - 120} RECLAIMING@{int(NOW) - 60}"
    save(store, row("80", user="bob", queue="prod", state="pending", restarts=1, reasons=history, gpus=1))
    assert run("job", "explain", "80").output.splitlines()[0].endswith("(2 min).")


def test_a_failed_job_tells_how_and_where_its_output_is(run: Run, store: MemoryStore) -> None:
    """As Slurm told when it ended."""
    before = row("80", user="bob", queue="prod", state="running", gpus=1, nodes="n1", start_s=NOW - 500)
    record = JobRecord(slurm_id="80", slurm_state="FAILED", reason="NonZeroExitCode", exit_status=768, end_s=int(NOW))
    save(store, *ended_rows([record], {}, {"80": before}, NOW))
    said = run("job", "explain", "80").output
    assert " on n1 (exit code 3, NonZeroExitCode)." in said.splitlines()[0]
    assert "prod: failed at " in said
    assert "'scontrol show job 80' names as StdOut" in said


@pytest.mark.parametrize(
    ("state", "status", "reason", "said"),
    [
        ("OUT_OF_MEMORY", 9, "OutOfMemory", "killed by signal 9, OutOfMemory"),
        ("TIMEOUT", 0, "TimeLimit", "TimeLimit"),
        ("COMPLETED", 0, "None", ""),
        ("CANCELLED", 15, "None", ""),
        ("FAILED", None, "None", ""),
    ],
)
def test_how_a_job_ended_is_kept(state: str, status: int | None, reason: str, said: str) -> None:
    """For as long as the job is known, not as long as Slurm remembers it."""
    record = JobRecord(slurm_id="80", slurm_state=state, reason=reason, exit_status=status, end_s=int(NOW))
    (ended,) = ended_rows([record], {}, {"80": row("80", state="running")}, NOW)
    assert (ended.state, ended.message) == (state.lower(), said)


def test_an_ended_job_of_slices_says_which_it_had_and_why(run: Run, store: MemoryStore) -> None:
    """Those of its last run."""
    token = save(store, row("80", user="bob", queue="prod", state="completed", start_s=NOW - 90, end_s=NOW, nodes="n1"))
    given = {"job": KEY, "user": "bob", "queue": "prod", "node": "n1", "gpu": "GPU-1", "gpu_type": "h100",
             "profile": "1g.10gb", "memory_mib": 9728, "milli": 143, "why": "8G of memory: 1g.10gb is the smallest"}  # fmt: skip
    for name, at_s in (("r1", NOW - 500), ("r2", NOW - 90)):
        (made,) = store.add_slices(token, [SliceRecord(reservation=name, created_s=at_s, live_s=at_s, **given)])
        store.advance_slices([made.id], SliceState.FREED, at_s + 60)
    said = run("job", "explain", "80").output
    assert "0.14 GPUs in slices in queue prod: completed at" in said
    assert said.count("1g.10gb, 9728 MiB of a GPU (h100) on n1") == 1
    assert "8G of memory: 1g.10gb is the smallest" in said


def test_the_reasons_as_data_are_a_list_and_nothing_else(run: Run, store: MemoryStore) -> None:
    """How the store keeps them is its own affair."""
    save(store, row("80", user="bob", queue="prod", state="pending", reasons=f"QUEUE_MAX@{int(NOW)}"))
    store.record_event(Event(at_s=NOW, source="daemon", kind="policy", message="policy 1 taken up"))
    found = json.loads(run("job", "explain", "80", "--json").output)
    assert "reasons" not in found["job"]
    assert [reason["code"] for reason in found["reasons"]] == ["QUEUE_MAX"]
