"""Past use: GPU-hours per queue and day, from runs that ended, were evicted, or go on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.model.slice_state import SliceRecord, SliceState
from slurmext.model.state import ActionKind, ActionState, Intent, JobKey, JobRow, PreemptionRecord
from slurmext.service.usage import DAY_S, Run, gpu_hours, runs, slice_runs
from slurmext.testing.memory_store import MemoryStore

NOW = 1_800_000_000.0
KEY = JobKey(job_id="7", submit_s=int(NOW) - 90_000)


def test_hours_are_told_per_day_and_added_up_the_tree() -> None:
    """A run over midnight is split; parents have what their children used."""
    found = [
        Run(queue="a/x", gpus=2, start_s=NOW - 1.5 * DAY_S, end_s=NOW - 0.5 * DAY_S),
        Run(queue="a/y", gpus=1, start_s=NOW - 3 * DAY_S, end_s=NOW - 1.75 * DAY_S),
    ]
    assert gpu_hours(found, NOW - 2 * DAY_S, NOW) == {
        "a": [24 + 6, 24],
        "a/x": [24, 24],
        "a/y": [6, 0],
    }


def test_slices_are_counted_by_their_part_of_a_gpu_while_their_jobs_had_them() -> None:
    """Reserved ones that no job ran on are not."""
    store = MemoryStore()
    lease = store.acquire_lease("controller", "me", 1e6, NOW - 90_000)
    assert lease is not None
    wish = SliceRecord(reservation="r", job=KEY, user="ann", queue="a/x", node="n1", gpu="G0", profile="1g.10gb", start=0,
                       milli=500, created_s=NOW - 9000, changed_s=NOW - 9000)  # fmt: skip
    lived, _ = store.add_slices(lease.token, [wish, replace(wish, start=1)])
    store.advance_slices([lived.id], SliceState.LIVE, NOW - 7200)
    store.advance_slices([lived.id], SliceState.FREED, NOW - 3600)
    span = NOW - DAY_S, NOW
    assert gpu_hours(slice_runs(store, "a", *span), *span) == {"a": [0.5], "a/x": [0.5]}
    assert not list(slice_runs(store, "b", *span))


def test_an_evicted_job_is_counted_from_its_release_to_its_eviction_and_again_since() -> None:
    """Runs of one job are told apart by its releases."""
    store = MemoryStore()
    lease = store.acquire_lease("controller", "me", 1e6, NOW - 90_000)
    assert lease is not None
    store.save_jobs(lease.token, [JobRow(job=KEY, queue="a/x", state="running", gpus=4, start_s=NOW - 3600)])
    for at_s in (NOW - 20_000, NOW - 3600):
        (release,) = store.record_plan(lease.token, at_s, {}, [Intent(kind=ActionKind.RELEASE, job=KEY, reason="")])
        store.advance(lease.token, release.id, ActionState.DONE, at_s)
    store.record_preemption(
        lease.token,
        PreemptionRecord(
            victim=KEY, victim_user="ann", beneficiary="9", reason="RECLAIM_GUARANTEE", from_queue="a/x", to_queue="b",
            gpus=4, lost_gpu_s=0, signalled_s=None, confirmed_s=None, ended_s=NOW - 20_000 + 7200,
        ),
    )  # fmt: skip
    used = gpu_hours(runs(store, None, NOW - DAY_S, NOW), NOW - DAY_S, NOW)
    assert used["a"] == [pytest.approx(4 * 2 + 4 * 1)]
    assert gpu_hours(runs(store, "b", NOW - DAY_S, NOW), NOW - DAY_S, NOW) == {}
