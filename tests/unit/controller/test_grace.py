"""Victims and the time they are given: what the controller waits for, and when it stops waiting."""

from __future__ import annotations

import pytest

from slurmext.model.cluster import ClusterView
from slurmext.model.job import JobState
from tests.unit.controller.site import Site, borrow_everything


@pytest.mark.parametrize("ckpt", ["auto", None])
def test_a_victim_that_does_not_end_is_killed_when_its_grace_is_over(site: Site, ckpt: str | None) -> None:
    """The grace of 20 s begins with the signal, or with TERM for a job that knows none."""
    borrow_everything(site, ckpt=ckpt)
    site.slurm.linger = True
    site.slurm.submit("prod")
    site.rounds(2)
    (victim,) = site.done("signal USR1" if ckpt else "requeue")
    began_s = site.store.open_actions()[0].created_s
    if ckpt:
        site.confirm(victim)
    while site.slurm.now() < began_s + 20:
        site.rounds(1)
    assert site.done("requeue") == [victim]
    assert site.killed == []
    site.rounds(1)
    assert site.killed == [(victim, began_s + 20)]
    site.rounds(3)
    asked = len(site.killed)
    assert asked >= 3, "it is asked for again"
    site.slurm.linger = False
    site.rounds(5)
    assert len(site.killed) <= asked + 1


def test_a_victim_that_used_up_its_grace_is_killed_a_second_after_term(site: Site) -> None:
    """It never confirmed, so it was requeued when its grace ended."""
    borrow_everything(site, ckpt="auto")
    site.slurm.linger = True
    site.slurm.submit("prod")
    signalled_s = site.slurm.now()
    site.rounds(23)
    assert site.killed[0][1] == signalled_s + 21


def test_graces_that_end_one_after_the_other_are_waited_for_together(site: Site) -> None:
    """Each scancel takes its time; a cycle for each would keep the beneficiary waiting."""
    borrow_everything(site, ckpt="auto")
    site.slurm.submit("prod", tasks=2)
    send = site.slurm.signal

    def slowly(job_id: str, signal: str, *, script: bool = True) -> None:
        site.slurm.now_s += 0.1
        send(job_id, signal, script=script)

    site.slurm.signal = slowly  # type: ignore[method-assign]
    began_s = site.slurm.now()
    due_s = site.controller.run(site.token).next_s
    assert due_s == pytest.approx(began_s + 20.2)
    site.slurm.now_s = float(due_s or 0)
    site.controller.run(site.token)
    assert len(site.done("requeue")) == 2


def test_a_grace_that_ends_during_a_cycle_is_no_reason_to_wait(site: Site) -> None:
    """The cycle looked at the victim just before; the next one is due at once."""
    borrow_everything(site, ckpt="auto")
    site.slurm.submit("prod")
    due_s = site.controller.run(site.token).next_s
    assert due_s is not None
    site.slurm.now_s = due_s - 0.1
    read, calls = site.slurm.read, iter((0.0, 0.2))

    def slowly() -> ClusterView:
        site.slurm.now_s += next(calls)
        return read()

    site.slurm.read = slowly  # type: ignore[method-assign]
    again_s = site.controller.run(site.token).next_s
    assert site.done("requeue") == []
    assert again_s is not None
    assert again_s <= site.slurm.now()


def test_the_next_cycle_is_due_when_a_grace_ends(site: Site) -> None:
    """First the end of the grace, then, while the victim lingers, when it is to be killed; not a second later."""
    borrow_everything(site, ckpt="auto")
    site.slurm.linger = True
    site.slurm.submit("prod")
    signalled_s = site.slurm.now()
    assert site.controller.run(site.token).next_s == signalled_s + 20
    site.slurm.tick(20)
    site.controller.run(site.token)
    assert site.controller.run(site.token).next_s == signalled_s + 21


def test_without_confirmation_the_grace_is_waited_out(site: Site) -> None:
    """A victim that stays silent is requeued when its grace is over, not before."""
    borrow_everything(site, ckpt="auto")
    site.slurm.submit("prod")
    site.rounds(18)
    assert site.done("requeue") == []
    site.rounds(6)
    assert len(site.done("requeue")) == 1


def test_a_checkpoint_from_before_the_signal_does_not_count(site: Site) -> None:
    """Only what was saved after the signal lets a victim go early."""
    jobs = borrow_everything(site, ckpt="USR2@10")
    for job in jobs:
        site.confirm(job)
    site.slurm.tick(5)
    site.slurm.submit("prod")
    site.rounds(4)
    assert len(site.done("signal USR2")) == 1
    assert site.done("requeue") == []
    site.rounds(8)
    assert len(site.done("requeue")) == 1, "USR2@10 waits 10 s of the 20 s grace"


def test_a_job_without_checkpoints_goes_at_once(site: Site) -> None:
    """Without --ckpt there is no signal it would understand and nothing to wait for."""
    borrow_everything(site)
    prod = site.slurm.submit("prod")
    site.rounds(4)
    assert not [act for act, _ in site.slurm.log if act.startswith("signal")]
    assert site.state(prod) is JobState.RUNNING
