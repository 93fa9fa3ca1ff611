"""What every store promises, the in-memory fake included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slurmext.errors import SlurmextError, StoreConflict
from slurmext.model.queue import Queue
from slurmext.model.state import (
    ActionKind,
    ActionState,
    CheckpointRecord,
    Event,
    Intent,
    JobKey,
    JobRow,
    Lease,
    PreemptionRecord,
    StoredFence,
)

KEY = JobKey(job_id="12", submit_s=500)
OTHER = JobKey(job_id="13_4", submit_s=501)


def evict(job: JobKey = KEY, **detail: object) -> Intent:
    return Intent(kind=ActionKind.EVICT, job=job, reason="RECLAIM_GUARANTEE", message="for 57", detail=detail)


def taken(victim: JobKey = KEY, ended_s: float = 1100.5, **other: Any) -> PreemptionRecord:
    return PreemptionRecord(
        **{
            "victim": victim,
            "victim_user": "alice",
            "beneficiary": "57",
            "reason": "RECLAIM_GUARANTEE",
            "from_queue": "research",
            "to_queue": "prod/chat",
            "gpus": 4,
            "lost_gpu_s": 25.25,
            "signalled_s": 1090.125,
            "confirmed_s": None,
            "ended_s": ended_s,
            **other,
        }
    )


def saved(job_id: str = "12", saved_s: float = 1050.0, **other: Any) -> CheckpointRecord:
    return CheckpointRecord(
        **{
            "job_id": job_id,
            "step": 300,
            "path": "/ckpt/300",
            "size_bytes": 2**40,
            "saved_s": saved_s,
            "confirmed_s": saved_s + 0.5,
            "node": "n1",
            **other,
        }
    )


# lease


def test_first_holder_gets_token_one(store: Any) -> None:
    """The first lease has token 1 and ends after its time to live."""
    lease = store.acquire_lease("controller", "a", 15, 1000.25)
    assert lease == Lease(name="controller", holder="a", token=1, expires_s=1015.25)
    assert store.current_lease("controller") == lease


def test_renewing_keeps_the_token(store: Any) -> None:
    """The holder renews before or after the end, with the same token."""
    store.acquire_lease("controller", "a", 15, 1000)
    assert store.acquire_lease("controller", "a", 15, 1010) == Lease(
        name="controller", holder="a", token=1, expires_s=1025
    )
    assert store.acquire_lease("controller", "a", 15, 2000).token == 1


def test_another_waits_for_the_end_then_gets_the_next_token(store: Any) -> None:
    """While a lease stands nobody else gets it; when it is over the next holder's token is one higher."""
    store.acquire_lease("controller", "a", 15, 1000)
    assert store.acquire_lease("controller", "b", 15, 1014.999) is None
    assert store.current_lease("controller").holder == "a"
    assert store.acquire_lease("controller", "b", 15, 1015).token == 2
    assert store.acquire_lease("controller", "a", 15, 1016) is None


def test_released_lease_is_free_at_once_and_tokens_go_on(store: Any) -> None:
    """Giving up lets the next one in immediately, and the first holder comes back with a new token."""
    lease = store.acquire_lease("controller", "a", 15, 1000)
    store.release_lease(lease)
    assert store.current_lease("controller") is None
    assert store.acquire_lease("controller", "b", 15, 1001).token == 2
    store.release_lease(lease)  # no longer ours: nothing happens
    assert store.current_lease("controller").holder == "b"


def test_clock_that_runs_ahead_takes_the_lease_once(store: Any) -> None:
    """A host an hour ahead takes the lease early; the others then wait it out, and the first one's writes fail."""
    first = store.acquire_lease("controller", "a", 15, 1000)
    assert store.acquire_lease("controller", "ahead", 15, 1001 + 3600).token == 2
    assert store.acquire_lease("controller", "a", 15, 1002) is None
    with pytest.raises(StoreConflict):
        store.save_jobs(first.token, [JobRow(job=KEY)])


def test_leases_are_apart_by_name(store: Any) -> None:
    """Two leases do not know of each other."""
    assert store.acquire_lease("controller", "a", 15, 1000).token == 1
    assert store.acquire_lease("staging", "b", 15, 1000).token == 1


def test_no_lease_before_the_first(store: Any) -> None:
    """A fresh store has no lease, and no token is good."""
    assert store.current_lease("controller") is None
    with pytest.raises(StoreConflict):
        store.replace_fences(0, [])


@pytest.mark.parametrize(
    "write",
    [
        lambda s, t, a: s.save_jobs(t, [JobRow(job=KEY)]),
        lambda s, t, a: s.record_plan(t, 1021, {}, [evict()]),
        lambda s, t, a: s.advance(t, a, ActionState.DONE, 1021),
        lambda s, t, a: s.replace_fences(t, [StoredFence(beneficiary=KEY, placement={"n1": 1}, created_s=1)]),
        lambda s, t, a: s.record_preemption(t, taken()),
        lambda s, t, a: s.prune(t, 5000),
    ],
    ids=["save_jobs", "record_plan", "advance", "replace_fences", "record_preemption", "prune"],
)
def test_stale_token_writes_nothing(store: Any, token: int, write: Any) -> None:
    """After a takeover every write of the old controller raises StoreConflict, and the store is as before."""
    [action] = store.record_plan(token, 1000, {}, [evict()])
    assert store.acquire_lease("controller", "second", 15, 1020).token == token + 1
    with pytest.raises(StoreConflict, match="stale"):
        write(store, token, action.id)
    assert store.jobs() == store.fences() == store.preemptions() == store.events() == []
    assert store.actions() == [action]


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


# jobs

ROW = JobRow(
    job=KEY,
    name="train größe 🚀",
    user="alice",
    account="a1",
    queue="prod/chat",
    state="running",
    gpus=4,
    nodes="n[1-2]",
    reason="",
    message="ok",
    ckpt="USR1@60",
    preempted=1,
    restarts=2,
    start_s=900.125,
    end_s=None,
    requested_nodes="n1",
    updated_s=1000.5,
)


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
