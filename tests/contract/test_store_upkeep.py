"""What every store promises about checkpoints' costs and copies, and about failures; the in-memory fake included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slurmext.errors import StoreConflict
from slurmext.model.state import JobKey
from slurmext.model.upkeep import CheckpointCopy, CheckpointCost, FailureRate, FailureRecord

COST = CheckpointCost(
    job_id="7_3", at_s=1000.5, saves=4, nodes=2, size_bytes=5 << 33, stall_s=0.14, write_s=2.5, cost_s=0.27,
    every_s=310.25, mtbf_s=9e6,
)  # fmt: skip
COPY = CheckpointCopy(
    job_id="7", node="n1", name="save-00000003-step-12", tier="memory", size_bytes=5 << 33, done_bytes=1 << 30, at_s=5.5
)
FAILURE = FailureRecord(
    job=JobKey(job_id="7", submit_s=3), at_s=9.5, kind="NODE_FAIL", nodes="n[1-2]", node_count=2, ran_s=60.25
)


def test_the_newest_word_on_a_jobs_cost_stands(store: Any) -> None:
    """Agents send at least once and in any order; jobs that said nothing are left out."""
    store.record_checkpoint_cost(COST)
    store.record_checkpoint_cost(replace(COST, at_s=900.0, cost_s=9.0))
    assert store.checkpoint_costs(["7_3", "8"]) == {"7_3": COST}
    later = replace(COST, at_s=1001.0, saves=5)
    store.record_checkpoint_cost(later)
    assert store.checkpoint_costs(["7_3"]) == {"7_3": later}
    assert store.checkpoint_costs([]) == {}


def test_copies_come_and_go(store: Any) -> None:
    """A copy's progress replaces what was known of it; one of no bytes is gone."""
    peer = replace(COPY, node="n2", tier="peer", at_s=6.5)
    for copy in (COPY, peer, replace(COPY, job_id="8")):
        store.record_copy(copy)
    assert store.copies(job_id="7") == [peer, COPY]
    done = replace(COPY, done_bytes=COPY.size_bytes, at_s=7.5)
    store.record_copy(done)
    assert store.copies(job_id="7") == [done, peer]
    assert store.copies(node="n2") == [peer]
    store.record_copy(replace(peer, size_bytes=0, done_bytes=0))
    assert store.copies(job_id="7") == [done]


def test_failures_are_kept_and_only_the_controller_adds_them(store: Any, token: int) -> None:
    """Newest first; a daemon that lost its lease writes nothing."""
    later = replace(FAILURE, at_s=19.5, kind="requeued")
    store.record_failure(token, FAILURE)
    store.record_failure(token, later)
    assert store.failures() == [later, FAILURE]
    assert store.failures(since_s=10) == [later]
    assert store.failures(limit=1) == [later]
    with pytest.raises(StoreConflict):
        store.record_failure(token + 1, FAILURE)


def test_the_failure_rate_is_what_was_saved_last(store: Any, token: int) -> None:
    """Nothing is known at first."""
    assert store.failure_rate() == FailureRate()
    rate = FailureRate(count=2.5, node_s=1e7, at_s=77.5)
    store.save_failure_rate(token, FailureRate(count=1, node_s=1, at_s=1))
    store.save_failure_rate(token, rate)
    assert store.failure_rate() == rate
    with pytest.raises(StoreConflict):
        store.save_failure_rate(token + 1, rate)
