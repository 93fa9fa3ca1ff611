"""Slices that are guaranteed while whole-GPU jobs have every GPU, over a Slurm and agents in memory."""

from __future__ import annotations

import pytest
from site_of_slices import POLICY, Site

from slurmext.model.slicing import GpuUse

BORROWING = POLICY.replace("research: {guaranteed: 4, max: 8}", "research: {guaranteed: 0, max: 8}")


def full(policy: str = BORROWING, **wants: object) -> tuple[Site, list[str]]:
    """All four GPUs are with jobs that borrow them."""
    site = Site(policy)
    borrowers = [site.slurm.submit("research", gpus=1, **wants) for _ in range(4)]
    site.steps(4)
    assert [site.state(job) for job in borrowers] == ["RUNNING"] * 4
    return site, borrowers


def test_a_guaranteed_slice_gets_a_gpu_from_a_job_that_borrows() -> None:
    """One borrower saves and leaves, its GPU is cut, the slice job runs; the others and the ledger are right."""
    site, borrowers = full(ckpt="auto")
    owner = site.submit("prod", slice_profile="1g.10gb")
    site.step()
    assert site.row(owner).reason == "RECLAIMING"
    site.steps(40)
    assert site.state(owner) == "RUNNING", site.why()
    (left,) = [job for job in borrowers if site.slurm.records[job].restarts]
    assert ("signal USR1", left) in site.slurm.log
    (line,) = site.store.preemptions()
    assert (line.victim.job_id, line.beneficiary, line.reason, line.gpus) == (left, owner, "RECLAIM_GUARANTEE", 1)
    assert (line.from_queue, line.to_queue) == ("research", "prod")
    assert sorted(site.agents.use.values()) == [GpuUse.MIG, GpuUse.WHOLE, GpuUse.WHOLE, GpuUse.WHOLE]
    assert site.row(left).state == "pending"


def test_a_borrower_may_take_as_long_as_its_grace_allows() -> None:
    """The placeholder waits for who leaves, longer than for anything else; nobody else is asked meanwhile."""
    site, borrowers = full(BORROWING.replace("grace_s: 20", "grace_s: 120"), ckpt="USR1@100")
    owner = site.submit("prod", slice_profile="3g.40gb")
    site.steps(90)
    assert sum(("signal USR1", job) in site.slurm.log for job in borrowers) == 1
    (hold,) = site.store.holds()
    assert hold.for_job == owner
    site.steps(30)
    assert site.state(owner) == "RUNNING", site.why()
    assert sum(site.slurm.records[job].restarts for job in borrowers) == 1


@pytest.mark.parametrize("after", [1, 2, 5, 12, 22])
def test_a_daemon_that_dies_meanwhile_disturbs_nobody_twice(after: int) -> None:
    """Whatever it had done when it died: one borrower leaves, one GPU is cut."""
    site, borrowers = full(ckpt="auto")
    owner = site.submit("prod", slice_profile="1g.10gb")
    site.steps(after)
    site.boot()
    site.steps(45)
    assert site.state(owner) == "RUNNING", site.why()
    assert sum(site.slurm.records[job].restarts for job in borrowers) == 1
    assert sorted(site.agents.use.values()) == [GpuUse.MIG, GpuUse.WHOLE, GpuUse.WHOLE, GpuUse.WHOLE]


def test_over_the_requeue_budget_nobody_leaves_and_no_gpu_is_waited_for() -> None:
    """The budget of the policy holds for slices as well."""
    site, borrowers = full(BORROWING.replace("grace_s: 20,", "grace_s: 20, max_requeues_per_hour: 0,"))
    owner = site.submit("prod", slice_profile="1g.10gb")
    site.steps(10)
    assert site.state(owner) == "PENDING"
    assert [site.state(job) for job in borrowers] == ["RUNNING"] * 4
    assert site.store.holds(active=False) == []


def test_a_whole_job_released_in_the_same_cycle_counts_against_the_queue() -> None:
    """A queue of one GPU never has a whole one and a part of another."""
    site = Site(POLICY + "  one: {guaranteed: 0, max: 1}\n")
    site.submit("research", slice_profile="1g.10gb")
    site.steps(8)
    whole = site.slurm.submit("one", gpus=1)
    part = site.submit("one", slice_profile="1g.10gb")
    site.steps(15)
    assert sorted((site.state(whole), site.state(part))) == ["PENDING", "RUNNING"], site.why()
