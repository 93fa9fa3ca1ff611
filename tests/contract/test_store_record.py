"""What every store promises of what is kept for later: ledger, checkpoints, events, and what pruning leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slurmext.model.state import (
    ActionState,
    Event,
    JobKey,
)
from tests.contract.records import KEY, OTHER, ROW, evict, saved, taken

# ledger


def test_ledger_line_comes_back_whole_and_once(store: Any, token: int) -> None:
    """Every field survives; the same eviction twice is one line."""
    store.record_preemption(token, taken())
    store.record_preemption(token, taken())
    assert store.preemptions() == [taken()]


def test_ledger_by_job_and_time(store: Any, token: int) -> None:
    """Newest first; filters combine; counts are by job and submission."""
    reused = JobKey(job_id="12", submit_s=7)
    a, b, c, d = taken(), taken(OTHER, 1200), taken(ended_s=1300), taken(reused, 50)
    for record in (a, b, c, d):
        store.record_preemption(token, record)
    assert store.preemptions() == [c, b, a, d]
    assert store.preemptions(job_id="12") == [c, a, d]
    assert store.preemptions(since_s=1200) == [c, b]
    assert store.preemptions(limit=1) == [c]
    nobody = JobKey(job_id="99", submit_s=1)
    assert store.preemption_counts([KEY, OTHER, reused, nobody]) == {KEY: 2, OTHER: 1, reused: 1, nobody: 0}
    assert store.preemption_counts([]) == {}


# checkpoints


def test_newest_checkpoint_of_each_job(store: Any) -> None:
    """The newest by save time counts, however late its confirmation came; jobs without one are absent."""
    a, b, late = (
        saved(saved_s=1050),
        saved(saved_s=1100, step=None, size_bytes=None),
        saved(saved_s=1010, confirmed_s=9e3),
    )
    other = saved("13_4", 1)
    for record in (a, b, late, other, a):
        store.record_checkpoint(record)
    assert store.last_checkpoints(["12", "13_4", "99"]) == {"12": b, "13_4": other}
    assert store.last_checkpoints([]) == {}
    assert store.checkpoints(job_id="12") == [b, a, late]
    assert store.checkpoints(limit=2) == [b, a]


MANY = [str(n) for n in range(1000)]


def test_newest_checkpoints_of_many_jobs_follow_what_comes(store: Any, token: int) -> None:
    """Asking for a whole cluster's jobs again and again sees each new checkpoint, late ones and after pruning too."""
    store.record_checkpoint(saved("1", 100))
    store.record_checkpoint(saved("2", 100))
    assert store.last_checkpoints(MANY) == {"1": saved("1", 100), "2": saved("2", 100)}
    store.record_checkpoint(saved("1", 50, step=1))  # came late
    store.record_checkpoint(saved("2", 200))
    store.record_checkpoint(saved("3", 300))
    newest = {"1": saved("1", 100), "2": saved("2", 200), "3": saved("3", 300)}
    assert store.last_checkpoints(MANY) == newest
    assert store.last_checkpoints(MANY) == newest
    assert store.prune(token, 1000) == 5
    assert store.last_checkpoints(MANY) == {}
    store.record_checkpoint(saved("2", 400))
    assert store.last_checkpoints(MANY) == {"2": saved("2", 400)}


def test_counts_of_many_jobs_follow_the_ledger(store: Any, token: int) -> None:
    """Asking for a whole cluster's jobs again and again sees each new line once."""
    keys = [JobKey(job_id=job_id, submit_s=1) for job_id in MANY]
    nothing = dict.fromkeys(keys, 0)
    assert store.preemption_counts(keys) == nothing
    store.record_preemption(token, taken(keys[1], 10))
    store.record_preemption(token, taken(keys[1], 20))
    assert store.preemption_counts(keys) == nothing | {keys[1]: 2}
    assert store.preemption_counts(keys) == nothing | {keys[1]: 2}
    store.record_preemption(token, taken(keys[1], 30))
    store.record_preemption(token, taken(keys[2], 5))
    store.record_preemption(token, taken(JobKey(job_id="1", submit_s=2), 40))
    assert store.preemption_counts(keys) == nothing | {keys[1]: 3, keys[2]: 1}


# events


def test_event_comes_back_with_an_id(store: Any) -> None:
    """Every field survives and the id grows."""
    event = Event(at_s=1000.5, source="agent:n1", kind="job_start", job_id="12", message="m", detail={"uid": 1000})
    assert store.record_event(event)
    assert store.record_event(replace(event, job_id=None, detail={}))
    first, second = store.events()
    assert replace(first, id=None) == event
    assert second.job_id is None
    assert first.id < second.id


def test_event_sent_twice_is_kept_once(store: Any) -> None:
    """Agents send at least once; the key tells."""
    event = Event(at_s=1000, source="agent:n1", kind="job_end", job_id="12")
    assert store.record_event(event, dedup="n1/boot/1") is True
    assert store.record_event(event, dedup="n1/boot/1") is False
    assert store.record_event(event, dedup="n1/boot/2") is True
    assert store.record_event(event) is True
    assert store.record_event(event) is True
    assert len(store.events()) == 4


def test_events_are_the_last_ones_or_the_next_ones(store: Any) -> None:
    """Without a cursor the last ones by time, oldest first; with one the next ones in order of arrival."""
    for at_s, job_id in ((10, "1"), (30, "1"), (20, "2"), (40, "1")):
        store.record_event(Event(at_s=at_s, source="daemon", kind="k", job_id=job_id))
    arrival = sorted(store.events(), key=lambda event: event.id)
    assert [event.at_s for event in store.events()] == [10, 20, 30, 40]
    assert [event.at_s for event in store.events(limit=2)] == [30, 40]
    assert [event.at_s for event in store.events(job_id="1", since_s=20)] == [30, 40]
    assert store.events(after_id=arrival[0].id) == arrival[1:]
    assert store.events(after_id=arrival[0].id, limit=1) == arrival[1:2]
    assert store.events(after_id=arrival[-1].id) == []


# retention


def test_pruning_keeps_what_is_alive_and_the_ledger(store: Any, token: int) -> None:
    """Old events, finished plans, ended jobs and their checkpoints go; open actions, living jobs, ledger stay."""
    ended = replace(ROW, job=OTHER, end_s=1100.0)
    store.save_jobs(token, [ROW, ended])
    [done] = store.record_plan(token, 1000, {}, [evict()])
    store.advance(token, done.id, ActionState.DONE, 1001)
    [open_] = store.record_plan(token, 1000, {}, [evict()])
    store.record_preemption(token, taken())
    store.record_checkpoint(saved())
    store.record_checkpoint(saved("13_4"))
    store.record_event(Event(at_s=2000, source="daemon", kind="new"))
    assert store.prune(token, 1500) == 4  # an event, a plan, a checkpoint, a job
    assert [event.kind for event in store.events()] == ["new"]
    assert store.actions() == [open_]
    assert store.jobs(active=False) == [ROW]
    assert store.checkpoints() == [saved()]
    assert store.preemptions() == [taken()]
    assert store.prune(token, 1500) == 0


def test_pruned_job_can_come_back(store: Any, token: int) -> None:
    """A job that was pruned is written when it is saved again."""
    ended = replace(ROW, end_s=1100.0)
    store.save_jobs(token, [ended])
    store.prune(token, 1500)
    store.save_jobs(token, [ended])
    assert store.jobs(active=False) == [ended]


def test_cursor_never_meets_an_id_twice(store: Any, token: int) -> None:
    """Ids of pruned events are not given again."""
    store.record_event(Event(at_s=1, source="daemon", kind="old"))
    [old] = store.events()
    store.prune(token, 10)
    store.record_event(Event(at_s=11, source="daemon", kind="new"))
    assert [event.kind for event in store.events(after_id=old.id)] == ["new"]
