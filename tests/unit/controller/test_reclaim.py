"""A reclaim from end to end over a Slurm in memory: who is requeued, held, released, and in which order."""

from __future__ import annotations

import pytest

from slurmext.model.job import JobState
from slurmext.model.state import JobKey
from tests.unit.controller.site import Site, borrow_everything


def test_victims_save_then_requeue_then_the_beneficiary_starts_where_they_were(site: Site) -> None:
    """Signal, confirmation, requeue, fence, release to the freed nodes; the ledger has the victim's line."""
    borrow_everything(site, ckpt="auto")
    gang = site.slurm.submit("prod", tasks=2)
    site.rounds(2)
    victims = site.done("signal USR1")
    assert len(victims) == 2
    assert site.done("requeue") == []
    assert [fence.beneficiary.job_id for fence in site.store.fences()] == [gang]
    for victim in victims:
        site.confirm(victim)
    site.rounds(6)
    assert site.done("requeue") == victims
    assert site.state(gang) is JobState.RUNNING
    assert site.store.fences() == []
    assert site.store.open_actions() == []
    lines = site.store.preemptions()
    assert {line.victim.job_id for line in lines} == set(victims)
    assert all(line.beneficiary == gang and line.confirmed_s is not None for line in lines)
    assert all(site.slurm.records[job].priority == 0 for job in victims), "victims wait under our hold"


def test_every_cycle_of_a_reclaim_keeps_the_laws(site: Site) -> None:
    """Plans and what comes of them: signal, grace, requeue, a beneficiary that starts, a victim that returns."""
    borrow_everything(site, ckpt="auto")
    gang = site.slurm.submit("prod", tasks=2)
    site.rounds(26)
    site.slurm.end(gang)
    site.rounds(5)
    assert len(site.store.preemptions()) == 2
    assert site.broken == []


def test_a_guaranteed_job_that_slurm_does_not_start_is_a_broken_law(site: Site) -> None:
    """Its victim left within the grace, but it does not run within grace + 5 s."""
    borrow_everything(site, ckpt="auto")
    job = site.slurm.submit("prod")
    site.slurm.stuck.add(job)
    site.rounds(24)
    assert site.broken == []
    site.rounds(4)
    assert set(site.broken) == {"guaranteed demand starts in time"}


def test_victims_are_requeued_together_and_held_after_the_beneficiary_was_released(site: Site) -> None:
    """Slurm may take a second over a hold: the beneficiary does not wait for it."""
    borrow_everything(site)
    gang = site.slurm.submit("prod", tasks=2)
    site.rounds(6)
    assert site.state(gang) is JobState.RUNNING
    acts = [act for act, _ in site.slurm.log]
    assert acts.index("requeue") < len(acts) - acts[::-1].index("release") - 1 < acts.index("hold_requeued")
    assert len(site.done("hold_requeued")) == 2


def test_where_slurm_restarts_victims_at_once_they_are_held_at_once(site: Site) -> None:
    """With a requeue delay of 0 the first victims start again; the next are held with their requeue, and the gang runs."""
    site.slurm.requeue_delay_s = 0
    borrow_everything(site)
    gang = site.slurm.submit("prod", tasks=2)
    site.rounds(12)
    assert site.state(gang) is JobState.RUNNING
    assert site.store.open_actions() == []


def test_a_cycle_tells_when_the_next_job_becomes_eligible(site: Site) -> None:
    """So that the daemon need not wait for its next interval."""
    assert site.controller.run(site.token).next_s is None
    site.slurm.submit("research", eligible_s=int(site.slurm.now()) + 50)
    site.slurm.submit("research", eligible_s=int(site.slurm.now()) + 20)
    assert site.controller.run(site.token).next_s == site.slurm.now() + 20


def test_a_requeued_job_keeps_its_identity(site: Site) -> None:
    """Slurm gives a requeued job a new submit time; for us it stays the same job with one preemption more."""
    jobs = borrow_everything(site)
    prod = site.slurm.submit("prod")
    site.rounds(5)
    (victim,) = site.done("requeue")
    rows = {row.job.job_id: row for row in site.store.jobs()}
    assert rows[victim].job == JobKey(job_id=victim, submit_s=1000)
    assert rows[victim].preempted == 1
    assert len(rows) == len(jobs) + 1
    site.slurm.end(prod)
    site.rounds(4)
    assert site.state(victim) is JobState.RUNNING


def test_a_victim_that_ends_by_itself_is_no_preemption(site: Site) -> None:
    """A job that finishes within its grace leaves no line in the ledger, and the beneficiary starts."""
    borrow_everything(site, ckpt="auto")
    prod = site.slurm.submit("prod")
    site.rounds(2)
    (victim,) = site.done("signal USR1")
    site.slurm.end(victim)
    site.rounds(4)
    assert site.store.preemptions() == []
    assert site.state(prod) is JobState.RUNNING
    assert site.store.open_actions() == []


@pytest.mark.parametrize("budget", [", max_requeues_per_cycle: 1", ", max_requeues_per_hour: 1"])
def test_a_gang_whose_victims_are_over_the_budget_waits_whole(budget: str) -> None:
    """Budgets cut whole sets: no victim leaves for a beneficiary that could not start."""
    site = Site(budget)
    borrow_everything(site)
    gang = site.slurm.submit("prod", tasks=2)
    site.rounds(5)
    assert site.done("requeue") == []
    single = site.slurm.submit("prod")
    site.slurm.end(gang, "CANCELLED")
    site.rounds(5)
    assert len(site.done("requeue")) == 1
    assert site.state(single) is JobState.RUNNING


def test_non_preemptible_jobs_are_spared(site: Site) -> None:
    """--no-preempt jobs are never victims."""
    kept = [site.slurm.submit("research", preemptible=False) for _ in range(2)]
    site.rounds(3)
    others = [site.slurm.submit("research") for _ in range(2)]
    site.rounds(3)
    site.slurm.submit("prod", tasks=2)
    site.rounds(5)
    assert set(site.done("requeue")) == set(others)
    assert all(site.state(job) is JobState.RUNNING for job in kept)
