"""Jobs that go on in another run when their time limit is near, and how often runs end unannounced."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.model.job import JobState
from slurmext.model.state import ActionKind, Event
from slurmext.model.upkeep import FailureRate
from slurmext.service import chain, ckpt_wish
from tests.unit.controller.site import Site

GRACE_S = 20.0


@pytest.fixture
def site() -> Site:
    return Site()


def start(site: Site, ckpt: str | None, limit_s: int = 600, **more: object) -> str:
    """A job that runs, with a time limit."""
    job = site.slurm.submit("research", ckpt=ckpt, **more)
    site.slurm.records[job] = replace(site.slurm.records[job], time_limit_s=limit_s)
    site.rounds(3)
    record = site.slurm.records[job]
    assert record.state is JobState.RUNNING
    return job


def near_the_end(site: Site, job: str) -> None:
    """So late that the job must save now."""
    record = site.slurm.records[job]
    end_s = (record.start_s or 0) + (record.time_limit_s or 0)
    site.slurm.tick(end_s - GRACE_S - ckpt_wish.SLACK_S - site.slurm.now() + 1)


def test_a_chained_job_saves_near_its_limit_and_comes_back(site: Site) -> None:
    """Signal, checkpoint, requeue, started again; no line in the victims' ledger, for nobody took anything."""
    job = start(site, "auto,chain")
    site.rounds(3)
    assert site.done("signal USR1") == []
    near_the_end(site, job)
    site.rounds(1)
    assert site.done("signal USR1") == [job]
    assert site.done("requeue") == []
    site.confirm(job)
    site.rounds(6)
    assert site.done("requeue") == [job]
    assert site.state(job) is JobState.RUNNING
    assert site.slurm.records[job].restarts == 1
    assert site.store.preemptions() == []
    (link,) = [action for action in site.store.actions(job_id=job) if action.kind is ActionKind.EVICT]
    assert link.reason == chain.REASON
    assert "another run" in site.store.events(job_id=job)[0].message or link.detail["chain"] is True
    assert site.store.failures() == []


def test_a_run_that_saved_nothing_is_left_to_its_limit(site: Site) -> None:
    """Requeued it would only do the same again; it is told once, and not again."""
    job = start(site, "USR1@10,chain")
    near_the_end(site, job)
    site.rounds(30)
    assert site.done("signal USR1") == [job]
    assert site.done("requeue") == []
    assert site.store.open_actions() == []


@pytest.mark.parametrize("ckpt", [None, "auto", "USR1@30"])
def test_who_did_not_ask_for_a_chain_has_none(site: Site, ckpt: str | None) -> None:
    """Slurm ends them at their limit, as ever."""
    job = start(site, ckpt)
    near_the_end(site, job)
    site.rounds(5)
    assert site.done("signal USR1") == []
    assert site.done("requeue") == []


def test_a_chain_has_an_end(site: Site) -> None:
    """After so many restarts the job is not requeued again."""
    job = start(site, "auto,chain")
    site.slurm.records[job] = replace(site.slurm.records[job], restarts=chain.MOST_LINKS)
    near_the_end(site, job)
    site.rounds(3)
    assert site.done("signal USR1") == []


def test_a_short_limit_is_not_all_grace(site: Site) -> None:
    """A job of one minute gets half of it, not a signal at its start."""
    job = start(site, "auto,chain", limit_s=60)
    site.rounds(5)
    assert site.done("signal USR1") == []
    site.slurm.tick(25)
    site.rounds(1)
    assert site.done("signal USR1") == [job]


def lose(site: Site, job: str) -> None:
    """Slurm requeues it by itself, as it does when a node fails."""
    record = site.slurm.records[job]
    site.slurm.records[job] = replace(record, restarts=record.restarts + 1, state=JobState.PENDING, priority=1,
                                      start_s=None, placement=())  # fmt: skip


def test_a_run_that_nobody_announced_to_end_is_a_failure(site: Site) -> None:
    """It is recorded, and from then on jobs are told of it; node seconds are counted while jobs run."""
    job = start(site, "auto")
    site.rounds(10, seconds=10)
    lose(site, job)
    site.rounds(2)
    (failure,) = site.store.failures()
    assert (failure.kind, failure.node_count, failure.job.job_id) == ("requeued", 1, job)
    rate = site.store.failure_rate()
    assert rate.count == pytest.approx(1)
    assert 80 <= rate.node_s <= 120
    count, _, node_s = site.controller.failures.told().partition("/")
    assert float(count) == pytest.approx(1)
    assert float(node_s) > 0


def test_who_saved_on_a_signal_before_is_no_failure(site: Site) -> None:
    """Whoever sent it, the end was announced; a checkpoint that nobody asked for announces nothing."""
    job, other = start(site, "auto"), start(site, "auto")
    site.rounds(2)
    for name, asked in ((job, True), (other, False)):
        detail = {"on_signal": asked}
        site.store.record_event(
            Event(at_s=site.slurm.now(), source="agent:n1", kind="checkpoint", job_id=name, detail=detail)
        )
    lose(site, job)
    lose(site, other)
    site.rounds(2)
    assert [failure.job.job_id for failure in site.store.failures()] == [other]


def test_what_was_long_ago_counts_less(site: Site) -> None:
    """Half after a quarter of a year."""
    site.store.save_failure_rate(site.token, FailureRate(count=8, node_s=8e6, at_s=site.slurm.now()))
    site.rounds(1)
    for _ in range(90 * 24 * 5):
        site.controller.failures.see(site.token, site.controller.observation(), site.slurm.now())
        site.slurm.tick(720)
    site.rounds(1)
    assert site.store.failure_rate().count == pytest.approx(4, rel=0.02)
