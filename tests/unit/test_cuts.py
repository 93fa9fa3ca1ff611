"""What slurmextd does when a policy or its calendar makes a queue smaller, over a Slurm in memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from slurmext.config.history import shrinks
from slurmext.config.policy import SitePolicy, parse_policy
from slurmext.model.job import JobState
from slurmext.model.plan import Reason

sys.path.insert(0, str(Path(__file__).parent))
from tests.unit.controller.site import Site

POLICY = """version: 1
settings: {{grace_s: 20, cut_delay_s: 30}}
queues:
  research: {{guaranteed: 8, max: {most}}}
  {other}: {{guaranteed: 8, max: 32}}
"""


def apply(site: Site, most: int, other: str = "prod") -> None:
    site.store.apply_policy(POLICY.format(most=most, other=other), "root", site.slurm.now())


@pytest.fixture
def site() -> Site:
    """Four jobs of research on all 32 GPUs."""
    found = Site()
    apply(found, 32)
    for _ in range(4):
        found.slurm.submit("research")
    found.rounds(5)
    assert [record.state for record in found.slurm.records.values()] == [JobState.RUNNING] * 4
    found.slurm.log.clear()
    return found


def notices(site: Site) -> dict[str, tuple[str, float]]:
    return {notice.job.job_id: (notice.reason, notice.at_s) for notice in site.store.notices()}


def test_a_cut_ends_as_many_as_it_must_after_its_delay(site: Site) -> None:
    """Those who will have to go are told at once; they leave when the delay is over, and nobody else does."""
    cut_s = site.slurm.now()
    apply(site, 16)
    site.rounds(29)
    assert site.done("requeue") == []
    told = notices(site)
    assert sorted(job for act, job in site.slurm.log if act.startswith("notify")) == sorted(told)
    assert set(told.values()) == {(Reason.QUOTA_CUT.value, cut_s + 30)}
    assert len(told) == 2
    site.rounds(8)
    assert sorted(site.done("requeue")) == sorted(told)
    assert notices(site) == {}
    assert {site.state(job) for job in told} == {JobState.PENDING}
    lines = {line.victim.job_id: line for line in site.store.preemptions()}
    assert set(lines) == set(told)
    assert {(line.reason, line.beneficiary, line.to_queue, line.gpus) for line in lines.values()} == {
        ("QUOTA_CUT", "", "", 8)
    }
    assert {row.reason for row in site.store.jobs() if row.state == "pending"} == {Reason.QUEUE_MAX.value}
    site.rounds(20)
    assert len(site.done("requeue")) == 2


def test_a_daemon_that_was_away_finds_the_cut_in_the_store(site: Site) -> None:
    """The delay counts from when the policy was applied, whoever was there."""
    apply(site, 16)
    site.rounds(2)
    site.slurm.tick(60)
    site.boot()
    site.rounds(6)
    assert len(site.done("requeue")) == 2


def test_raising_the_max_again_spares_everybody(site: Site) -> None:
    """A cut that was taken back within its delay ends nothing."""
    apply(site, 16)
    site.rounds(10)
    apply(site, 32)
    site.rounds(60)
    assert site.done("requeue") == []
    assert notices(site) == {}


def test_a_change_of_something_else_does_not_begin_the_delay_anew(site: Site) -> None:
    """What counts is when the max became what it is."""
    apply(site, 16)
    site.rounds(20)
    apply(site, 16, other="dev")
    site.rounds(16)
    assert len(site.done("requeue")) == 2


def test_jobs_of_a_removed_queue_leave_after_the_delay(site: Site) -> None:
    """They are told, requeued, and wait because nobody knows their queue."""
    for record in list(site.slurm.records):
        site.slurm.end(record)
    job = site.slurm.submit("prod")
    site.rounds(4)
    assert site.state(job) is JobState.RUNNING
    gone_s = site.slurm.now()
    apply(site, 32, other="dev")
    site.rounds(4)
    assert notices(site) == {job: (Reason.QUEUE_REMOVED.value, gone_s + 30)}
    site.rounds(35)
    assert site.done("requeue") == [job]
    assert [row.reason for row in site.store.jobs()] == [Reason.UNKNOWN_QUEUE.value]


@pytest.mark.parametrize(
    ("then", "reason", "count"),
    [
        ("{guaranteed: 8, dynamic: {max: 8}}", Reason.QUOTA_CUT, 1),
        ("{guaranteed: 8, max: 32}", Reason.QUEUE_REMOVED, 2),
        ("{guaranteed: 8, dynamic: {max: 32}}", None, 0),
    ],
)
def test_queues_that_make_themselves_are_cut_and_removed_like_others(
    then: str, reason: Reason | None, count: int
) -> None:
    """What is said of all children of a queue holds for the one that a job is in."""
    site, text = Site(), "version: 1\nsettings: {cut_delay_s: 5}\nqueues: {research: %s}\n"
    site.store.apply_policy(text % "{guaranteed: 8, dynamic: {max: 16}}", "root", site.slurm.now())
    for _ in range(2):
        site.slurm.submit("research/alice")
    site.rounds(4)
    assert [record.state for record in site.slurm.records.values()] == [JobState.RUNNING] * 2
    site.store.apply_policy(text % then, "root", site.slurm.now())
    site.rounds(2)
    assert [reason for reason, _ in notices(site).values()] == [reason] * count
    site.rounds(8)
    assert len(site.done("requeue")) == count


def test_evictions_by_the_hour_are_limited_for_cuts_as_well(site: Site) -> None:
    """One at a time where the policy allows no more: a cut's victims are sets of their own."""
    text = POLICY.replace("cut_delay_s: 30", "cut_delay_s: 0, max_requeues_per_cycle: 1")
    site.store.apply_policy(text.format(most=16, other="prod"), "root", site.slurm.now())
    site.controller.run(site.token)
    assert len(site.done("requeue")) == 1
    site.rounds(10)
    assert len(site.done("requeue")) == 2


def test_the_calendar_is_followed(site: Site) -> None:
    """At its time the numbers are others; `next_s` says when to look. A cut by the calendar has its delay too."""
    text = POLICY.replace("max: {most}", 'max: 32, calendar: [{{start: "30 * * * *", hours: 0.5, max: 16}}]')
    site.store.apply_policy(text.format(other="prod"), "root", site.slurm.now())
    assert site.controller.run(site.token).next_s == 1800
    site.slurm.now_s = 1799.9
    site.controller.run(site.token)
    assert notices(site) == {}
    site.slurm.now_s = 1800.0
    assert site.controller.run(site.token).next_s == 1830
    assert len(notices(site)) == 2
    site.slurm.now_s = 1830.0
    site.rounds(5)
    assert len(site.done("requeue")) == 2
    site.slurm.now_s = 3600.0
    short = site.slurm.submit("research", time_limit_s=600)
    site.rounds(10)
    assert site.state(short) is JobState.RUNNING
    # The others have no time limit, and at 5400 s the queue gets smaller again.
    assert {row.reason for row in site.store.jobs() if row.state == "pending"} == {Reason.PRE_DRAIN.value}


def policy(text: str) -> SitePolicy:
    return parse_policy(f"version: 1\nqueues:\n{text}")


def test_the_history_tells_since_when_a_max_is_what_it_is() -> None:
    """Not since it was last changed: a max that was raised a little is still a cut of what it was before."""
    versions = [
        (100.0, policy("  a: {max: 32}\n  b: {max: 8}\n")),
        (200.0, policy("  a: {max: 12}\n  b: {max: 8}\n")),
        (300.0, policy("  a: {max: 16}\n  b: {}\n  c: {max: 4}\n")),
    ]
    assert shrinks(versions, 1000.0).cuts == {"a": 200.0}


def test_the_history_tells_since_when_a_queue_is_gone() -> None:
    """One that came back is not gone; what its max was before it went counts."""
    versions = [
        (100.0, policy("  a: {max: 32}\n  b: {}\n  c: {}\n")),
        (200.0, policy("  c: {}\n")),
        (300.0, policy("  a: {max: 16}\n  c: {}\n")),
    ]
    found = shrinks(versions, 1000.0)
    assert dict(found.removed) == {"b": 200.0}
    assert dict(found.cuts) == {"a": 200.0}


def test_a_calendar_cuts_every_time_it_shrinks() -> None:
    """Since the begin of the window in force, also when the policy is older."""
    versions = [(0.0, policy('  a: {max: 32, calendar: [{start: "0 2 * * *", hours: 2, max: 16}]}\n'))]
    day = 86400.0
    assert shrinks(versions, 3 * day + 7200).cuts == {"a": 3 * day + 7200}
    assert shrinks(versions, 3 * day + 9000).cuts == {"a": 3 * day + 7200}
    assert shrinks(versions, 3 * day + 15000).cuts == {}
