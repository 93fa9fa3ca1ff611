"""What every store promises about idle GPUs, extensions and notices, the in-memory fake included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slurmext.errors import SlurmextError, StoreConflict
from slurmext.model.state import (
    Extension,
    GpuActivity,
    GpuState,
    JobKey,
    JobRow,
    Notice,
    PreemptionRecord,
)

KEY = JobKey(job_id="12", submit_s=500)
OTHER = JobKey(job_id="13_4", submit_s=501)


def idle(job_id: str = "12", node: str = "n1", at_s: float = 1000.5, **other: Any) -> GpuActivity:
    given = {
        "state": GpuState.IDLE,
        "valid_until_s": at_s + 180,
        "started_s": 600.25,
        "gpus": 4,
        "idle_since_s": 900.0,
        "mean_percent": 43.5,
        "peak_memory_mib": 71_000,
        **other,
    }
    return GpuActivity(job_id=job_id, node=node, at_s=at_s, **given)


def notice(job: JobKey = KEY, **other: Any) -> Notice:
    return Notice(
        **{"job": job, "reason": "IDLE_GPUS", "since_s": 1000.5, "at_s": 1600.0, "message": "its GPUs idle", **other}
    )


def left(victim: JobKey, ended_s: float, reason: str = "IDLE_GPUS") -> PreemptionRecord:
    return PreemptionRecord(
        victim=victim, victim_user="alice", beneficiary="", reason=reason, from_queue="research", to_queue="",
        gpus=4, lost_gpu_s=0, signalled_s=None, confirmed_s=None, ended_s=ended_s,
    )  # fmt: skip


def test_what_agents_said_last_is_kept_by_job_and_node(store: Any) -> None:
    """A row for each node, with everything in it; the newest word on a node replaces the former."""
    store.record_gpu_activity(idle())
    store.record_gpu_activity(idle(node="n2", state=GpuState.WORKING, idle_since_s=None))
    store.record_gpu_activity(idle(job_id="9", mean_percent=None, peak_memory_mib=None))
    working = idle(at_s=1010, state=GpuState.WORKING, idle_since_s=None)
    store.record_gpu_activity(working)
    assert store.gpu_activity(job_ids=["12"]) == [
        working,
        idle(node="n2", state=GpuState.WORKING, idle_since_s=None),
    ]
    assert store.gpu_activity(state=GpuState.IDLE) == [idle(job_id="9", mean_percent=None, peak_memory_mib=None)]


def test_an_old_word_that_arrives_late_changes_nothing(store: Any) -> None:
    """Agents send at least once: a repeated event must not undo what came after it."""
    working = idle(at_s=1010, state=GpuState.WORKING, idle_since_s=None)
    store.record_gpu_activity(working)
    store.record_gpu_activity(idle(at_s=1000))
    assert store.gpu_activity() == [working]


def test_an_extension_lasts_until_its_end_and_can_be_replaced(store: Any) -> None:
    """The newest word counts, shorter or longer; one that is over is not shown."""
    first = Extension(job=KEY, keep_until_s=5000.5, asked_by="alice", asked_s=1000)
    store.record_extension(first)
    store.record_extension(Extension(job=OTHER, keep_until_s=2000, asked_by="root", asked_s=1000))
    assert store.extensions(until_s=2000) == {KEY: first}
    shorter = replace(first, keep_until_s=3000, asked_s=1100)
    store.record_extension(shorter)
    assert store.extensions(until_s=2000) == {KEY: shorter}


def test_notices_are_exactly_the_last_ones(store: Any, token: int) -> None:
    """What the controller says stands, all of it and nothing else, oldest first."""
    early = notice(OTHER, since_s=900.0)
    store.replace_notices(token, [notice(), early])
    assert store.notices() == [early, notice()]
    store.replace_notices(token, [notice(at_s=1700.0), notice(reason="PRE_DRAIN", since_s=1001.0)])
    assert store.notices() == [notice(at_s=1700.0), notice(reason="PRE_DRAIN", since_s=1001.0)]
    store.replace_notices(token, [])
    assert store.notices() == []


def test_only_the_controller_writes_notices_and_each_once(store: Any, token: int) -> None:
    """A stale token is refused, and so are two notices of one job for one reason."""
    with pytest.raises(SlurmextError, match="two notices"):
        store.replace_notices(token, [notice(), notice(at_s=1.0)])
    with pytest.raises(StoreConflict):
        store.replace_notices(token + 1, [notice()])
    assert store.notices() == []


def test_when_a_job_last_left_for_a_reason(store: Any, token: int) -> None:
    """The newest line of the ledger with that reason, of the jobs asked for; a reused id is another job."""
    for line in (left(KEY, 1000.5), left(KEY, 2000.5), left(KEY, 3000, "QUOTA_CUT"), left(OTHER, 1500)):
        store.record_preemption(token, line)
    reused = JobKey(job_id="12", submit_s=999)
    assert store.last_left([KEY, reused], "IDLE_GPUS") == {KEY: 2000.5}
    assert store.last_left([KEY, OTHER], "IDLE_GPUS") == {KEY: 2000.5, OTHER: 1500}
    assert store.last_left([], "IDLE_GPUS") == {}


def test_what_is_over_is_pruned_and_what_lives_stays(store: Any, token: int) -> None:
    """The activity of jobs that ended long ago goes, and extensions that are over; a living job keeps its own."""
    store.save_jobs(token, [JobRow(job=KEY), JobRow(job=OTHER, end_s=600)])
    store.record_gpu_activity(idle(at_s=600))
    store.record_gpu_activity(idle(job_id="13_4", at_s=600))
    store.record_extension(Extension(job=OTHER, keep_until_s=700, asked_by="bob", asked_s=550))
    store.record_extension(Extension(job=KEY, keep_until_s=2000, asked_by="bob", asked_s=550))
    assert store.prune(token, 1000) >= 3
    assert [record.job_id for record in store.gpu_activity()] == ["12"]
    assert list(store.extensions(until_s=0)) == [KEY]
