"""A policy, and a calendar, that make queues smaller on a real Slurm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.integration.conftest import POLICY
from tests.integration.gates import Gate

if TYPE_CHECKING:
    from tests.integration.conftest import Site

pytestmark = pytest.mark.cluster

DELAY_S = 5
SETTINGS = f"settings: {{grace_s: 8, requeue_delay_s: 1, cut_delay_s: {DELAY_S}}}"
Apply = Callable[[str], str]


@pytest.fixture
def apply(site: Site) -> Iterator[Apply]:
    """Applies a policy with these queues and returns what was said; afterwards the usual one is in force again."""
    yield lambda queues: site.apply(f"version: 1\n{SETTINGS}\nqueues:\n{queues}")
    site.apply(POLICY)


def requeued(site: Site, *jobs: str) -> set[str]:
    """The jobs that Slurm has requeued."""
    return {job for job in jobs if site.job(job).restarts}


def test_a_cut_and_a_removed_queue_end_exactly_who_must_go(site: Site, apply: Apply) -> None:
    """Of two jobs of the cut queue the newer, of the removed queue the one that may be requeued: when the delay is over."""
    apply("  research: {guaranteed: 8, max: 32}\n  old: {guaranteed: 16, max: 32}\n")
    first = site.submit("alice", "--queue=research", "--gres=gpu:8")
    kept = site.submit("bob", "--queue=old", "--gres=gpu:8", "--no-preempt")
    gone = site.submit("bob", "--queue=old", "--gres=gpu:8")
    site.until_running(first, kept, gone)
    site.until(lambda: site.field(first, "RunTime") >= "00:00:02")
    gate = Gate(site.cluster)  # what is told before the script is there is not in its output
    newer = site.submit("alice", "--queue=research", "--gres=gpu:8", script=f"{gate.pass_by}; sleep 300")
    site.until(lambda: gate.reached(newer))
    before = {job: site.job(job) for job in (first, kept)}
    applied_s = time.time()
    said = apply("  research: {guaranteed: 8, max: 8}\n")
    in_force_s = time.time()
    assert "2 running jobs must leave" in said
    assert f"job {newer} of alice, 8 GPUs of research: QUOTA_CUT" in said
    assert f"job {gone} of bob, 8 GPUs of old: QUEUE_REMOVED" in said
    told = site.until(lambda: {(n.job.job_id, n.reason) for n in site.store.notices()})
    assert told == {(newer, "QUOTA_CUT"), (gone, "QUEUE_REMOVED")}
    early = requeued(site, first, kept, gone, newer)
    assert early == set() or time.time() - applied_s >= DELAY_S
    site.until(lambda: "this job is requeued in about 1 min" in site.output("alice", newer))
    site.until(lambda: requeued(site, gone, newer) == {gone, newer})
    assert time.time() - applied_s >= DELAY_S
    site.until(lambda: not site.store.open_actions())
    lines = {line.victim.job_id: line for line in site.store.preemptions(limit=2)}
    assert {job: (line.reason, line.beneficiary, line.to_queue) for job, line in lines.items()} == {
        newer: ("QUOTA_CUT", "", ""), gone: ("QUEUE_REMOVED", "", ""),
    }  # fmt: skip
    assert all(line.ended_s - applied_s >= DELAY_S for line in lines.values())
    begun_s = [action.created_s for job in (newer, gone) for action in site.store.actions(job_id=job)[:1]]
    assert all(applied_s + DELAY_S <= at_s <= in_force_s + DELAY_S + 6 for at_s in begun_s), begun_s
    site.until(lambda: (site.reason(newer), site.reason(gone)) == ("QUEUE_MAX", "UNKNOWN_QUEUE"))
    assert {job: site.job(job) for job in before} == before, "not touched"
    assert "QUOTA_CUT" in site.slurmext("job", "explain", newer)
    assert site.store.notices() == []


@pytest.mark.slow  # it waits for the minute
def test_the_calendar_takes_effect_at_its_minute(site: Site, apply: Apply) -> None:
    """At its minute a queue gets room and a job that waited starts; another shrinks and its newest job leaves."""
    begin = (datetime.now(UTC) + timedelta(seconds=75)).replace(second=0, microsecond=0)
    window = f'start: "{begin.minute} {begin.hour} * * *", hours: 0.1'
    apply(
        f"  research: {{guaranteed: 8, max: 32, pre_drain: tell, calendar: [{{{window}, max: 8}}]}}\n"
        f"  night: {{max: 0, calendar: [{{{window}, max: 8}}]}}\n"
    )
    due_s = begin.timestamp()
    first = site.submit("alice", "--queue=research", "--gres=gpu:8")
    site.until_running(first)
    site.until(lambda: site.field(first, "RunTime") >= "00:00:02")
    newer = site.submit("alice", "--queue=research", "--gres=gpu:8")
    site.until_running(newer)
    late = site.submit("bob", "--queue=night", "--gres=gpu:8", "--time=2")
    site.until(lambda: site.reason(late) == "QUEUE_MAX")
    told = site.until(lambda: {(n.job.job_id, n.reason, n.at_s) for n in site.store.notices()})
    assert told == {(newer, "PRE_DRAIN", due_s)}
    assert time.time() < due_s, "the machine is too slow for this test"
    time.sleep(max(0.0, due_s - time.time()))
    site.until(lambda: site.state(late) == "RUNNING")
    started_s = time.time()
    assert started_s - due_s < 4, "the daemon woke for it"
    site.until(lambda: requeued(site, newer))
    site.until(lambda: not site.store.open_actions())
    [line] = site.store.preemptions(job_id=newer, limit=1)
    assert (line.reason, line.beneficiary) == ("QUOTA_CUT", "")
    assert 0 <= line.ended_s - due_s - DELAY_S < 4
    assert requeued(site, first) == set()
    assert "not started" not in site.slurmext("queue", "show", "research")
