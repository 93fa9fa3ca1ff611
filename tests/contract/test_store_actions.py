"""What every store promises of plans, actions and fences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slurmext.errors import SlurmextError
from slurmext.model.state import (
    ActionKind,
    ActionState,
    Intent,
    JobKey,
    StoredFence,
)
from tests.contract.records import KEY, OTHER, evict

# plans and actions


def test_plan_and_intents_come_in_order(store: Any, token: int) -> None:
    """Records have the intents' order and growing ids, state intent, and are what the store then says."""
    intents = [evict(grace_s=60, nodes=["n1"]), Intent(kind=ActionKind.RELEASE, job=OTHER, reason="")]
    records = store.record_plan(token, 1000.5, {"evict": 1}, intents)
    assert [r.kind for r in records] == [ActionKind.EVICT, ActionKind.RELEASE]
    assert records[0].id < records[1].id
    assert {r.state for r in records} == {ActionState.INTENT}
    assert {(r.plan_id, r.created_s, r.changed_s) for r in records} == {(records[0].plan_id, 1000.5, 1000.5)}
    assert records[0].detail == {"grace_s": 60, "nodes": ["n1"]}
    assert store.open_actions() == records
    assert store.actions() == records[::-1]


def test_empty_plan_has_no_actions(store: Any, token: int) -> None:
    """A plan that does nothing may be written too."""
    assert store.record_plan(token, 1000, {}, []) == []
    assert store.open_actions() == []


def test_many_intents_keep_their_order(store: Any, token: int) -> None:
    """Ids belong to their intents in a plan of thousands."""
    intents = [evict(JobKey(job_id=str(n), submit_s=n), n=n) for n in range(2000)]
    records = store.record_plan(token, 1000, {}, intents)
    assert [r.job.job_id for r in records] == [str(n) for n in range(2000)]
    assert {r.id: r for r in records} == {r.id: r for r in store.open_actions()}


def test_advance_merges_detail_and_writes_an_event(store: Any, token: int) -> None:
    """State, time, message and detail change together with an event for the job's timeline."""
    [action] = store.record_plan(token, 1000, {}, [evict(grace_s=60)])
    store.advance(token, action.id, ActionState.SIGNALLED, 1001.5, detail={"signalled_s": 1001.5})
    [now] = store.open_actions()
    assert (now.state, now.changed_s, now.created_s, now.message) == (ActionState.SIGNALLED, 1001.5, 1000, "for 57")
    assert now.detail == {"grace_s": 60, "signalled_s": 1001.5}
    store.advance(token, action.id, ActionState.DONE, 1009, message="requeued")
    assert store.open_actions() == []
    [done] = store.actions()
    assert (done.state, done.message) == (ActionState.DONE, "requeued")
    first, second = store.events(job_id="12")
    assert (first.kind, first.at_s, first.source, first.job_id) == ("evict.signalled", 1001.5, "daemon", "12")
    assert first.detail["action"] == action.id
    assert (second.kind, second.message) == ("evict.done", "requeued")


def test_advancing_twice_is_advancing_once(store: Any, token: int) -> None:
    """A repeated outcome (after a crash in between) adds no event and keeps the time it first happened."""
    [action] = store.record_plan(token, 1000, {}, [evict()])
    store.advance(token, action.id, ActionState.DONE, 1001)
    store.advance(token, action.id, ActionState.DONE, 1005, detail={"late": True})
    [done] = store.actions()
    assert (done.changed_s, done.detail) == (1001, {"late": True})
    assert len(store.events()) == 1


def test_final_is_final(store: Any, token: int) -> None:
    """What ended cannot go on, and an unknown action is an error."""
    [action] = store.record_plan(token, 1000, {}, [evict()])
    store.advance(token, action.id, ActionState.REFUSED, 1001)
    with pytest.raises(SlurmextError, match="already refused"):
        store.advance(token, action.id, ActionState.SIGNALLED, 1002)
    with pytest.raises(SlurmextError, match="not in the state database"):
        store.advance(token, action.id + 1, ActionState.DONE, 1002)
    assert store.actions()[0].state is ActionState.REFUSED


def test_actions_by_job_time_and_number(store: Any, token: int) -> None:
    """Newest first; filters combine."""
    [a] = store.record_plan(token, 1000, {}, [evict()])
    [b] = store.record_plan(token, 1010, {}, [evict(OTHER)])
    [c] = store.record_plan(token, 1020, {}, [evict()])
    assert store.actions(job_id="12") == [c, a]
    assert store.actions(since_s=1010) == [c, b]
    assert store.actions(limit=2) == [c, b]
    assert store.actions(job_id="12", since_s=1001) == [c]


def test_budget_counts_what_was_carried_out(store: Any, token: int) -> None:
    """Intents, refusals, failures and abandoned ones cost no budget; the time is that of the last step."""
    states = list(ActionState)
    records = store.record_plan(token, 1000, {}, [evict(JobKey(job_id=s.value, submit_s=1)) for s in states])
    for record, state in zip(records, states, strict=True):
        if state is not ActionState.INTENT:
            store.advance(token, record.id, state, 1005)
    assert store.count_actions(action="evict", since_s=1005) == len(states) - 4  # those named above
    assert store.count_actions(action="evict", since_s=1005.5) == 0
    assert store.count_actions(action="release", since_s=0) == 0


# fences


def test_fences_are_replaced_as_a_set(store: Any, token: int) -> None:
    """What is not named any more falls, what is new stands, what stays keeps its time."""
    one = StoredFence(beneficiary=KEY, placement={"n1": 4, "n2": 8}, created_s=1000.5)
    two = StoredFence(beneficiary=OTHER, placement={"n3": 1}, created_s=1001)
    store.replace_fences(token, [one, two])
    store.replace_fences(token, [one, two])
    assert store.fences() == [one, two]
    moved = replace(one, placement={"n1": 4, "n4": 8})
    store.replace_fences(token, [moved])
    assert store.fences() == [moved]
    store.replace_fences(token, [])
    assert store.fences() == []


def test_job_cannot_have_two_fences(store: Any, token: int) -> None:
    """Two fences of one beneficiary are a mistake, and change nothing."""
    one = StoredFence(beneficiary=KEY, placement={"n1": 4}, created_s=1000)
    store.replace_fences(token, [one])
    with pytest.raises(SlurmextError, match="two fences"):
        store.replace_fences(token, [one, replace(one, placement={"n2": 4})])
    assert store.fences() == [one]
