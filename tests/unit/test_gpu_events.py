"""What agents say of GPUs, as the daemon stores it: late, twice, wrong or from a clock that is off."""

from __future__ import annotations

from typing import Any

import pytest

from slurmext.adapters.tcp.wire import AgentEvent
from slurmext.daemon.gpu_events import activity_of, store_activity
from slurmext.model.state import GpuState
from slurmext.testing.memory_store import MemoryStore

SAID: dict[str, Any] = {
    "state": "idle", "changed": True, "idle_since_s": 900.0, "valid_s": 180, "started_s": 500.5, "gpus": 4,
    "mean_percent": 12.5, "peak_memory_mib": 4000,
}  # fmt: skip


def event(seq: int = 1, at_s: float = 1000.0, **changes: Any) -> AgentEvent:
    return AgentEvent(node="n1", boot="b", seq=seq, event="gpu_activity", at_s=at_s, job_id="7", detail=SAID | changes)


def test_a_change_is_stored_and_told_once() -> None:
    """The same event again (agents send at least once) is no news."""
    store = MemoryStore()
    assert store_activity(store, event(), "7", 1001)
    assert not store_activity(store, event(), "7", 1002)
    (activity,) = store.gpu_activity()
    assert (activity.state, activity.idle_since_s, activity.valid_until_s) == (GpuState.IDLE, 900, 1180)
    assert (activity.gpus, activity.started_s, activity.mean_percent, activity.peak_memory_mib) == (
        4,
        500.5,
        12.5,
        4000,
    )
    assert [(e.kind, e.source, e.message) for e in store.events()] == [
        ("gpus.idle", "agent:n1", "all its GPUs are idle")
    ]


def test_a_confirmation_prolongs_and_is_no_event() -> None:
    """The timeline has changes only."""
    store = MemoryStore()
    store_activity(store, event(), "7", 1001)
    assert not store_activity(store, event(2, 1060.0, changed=False), "7", 1061)
    assert store.gpu_activity()[0].valid_until_s == 1240
    assert len(store.events()) == 1


def test_an_old_word_does_not_undo_a_newer_one() -> None:
    """A job that works again stays so, whatever comes late."""
    store = MemoryStore()
    store_activity(store, event(2, 1100.0, state="working", idle_since_s=None), "7", 1100)
    store_activity(store, event(1, 1000.0), "7", 1101)
    assert store.gpu_activity()[0].state is GpuState.WORKING


def test_a_clock_that_is_ahead_buys_no_time() -> None:
    """What is said counts from when it came at the latest."""
    assert activity_of(event(at_s=9000.0), "7", 1000).valid_until_s == 1180


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "sleeping"}, {"state": None}, {"idle_since_s": None}, {"idle_since_s": "yesterday"},
        {"idle_since_s": -1}, {"idle_since_s": True}, {"idle_since_s": float("inf")},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_unknown(wrong: dict[str, Any]) -> None:
    """No rule acts on it."""
    activity = activity_of(event(**wrong), "7", 1000)
    assert (activity.state, activity.idle_since_s) == (GpuState.UNKNOWN, None)


def test_a_word_without_a_term_does_not_count() -> None:
    """Nor does one that would count for ever."""
    assert activity_of(event(valid_s=None), "7", 1000).valid_until_s == 1000
    assert activity_of(event(valid_s=1e11), "7", 1000).valid_until_s == 1000 + 86400
