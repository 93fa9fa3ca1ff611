"""The controller when something fails: Slurm gone, a stale token, a kill at any boundary."""

from __future__ import annotations

import pytest

from slurmext.errors import SlurmUnavailable, StoreConflict
from slurmext.model.job import JobState
from tests.unit.controller.site import Site


def test_shadow_mode_plans_and_records_but_does_nothing() -> None:
    """Shadow mode leaves Slurm alone."""
    site = Site(shadow=True)
    site.slurm.submit("research")
    site.rounds(3)
    assert site.slurm.log == []
    assert site.store.open_actions() == []
    assert len(site.store.jobs()) == 1


def test_slurm_gone_means_nothing_is_done(site: Site) -> None:
    """A cycle without Slurm is skipped, and the next one goes on."""
    job = site.slurm.submit("research")
    site.slurm.down = True
    with pytest.raises(SlurmUnavailable):
        site.controller.run(site.token)
    assert site.store.open_actions() == []
    site.slurm.down = False
    site.rounds(2)
    assert site.state(job) is JobState.RUNNING


def test_a_stale_token_stops_acting(site: Site) -> None:
    """After another daemon took the lease, nothing of the old one reaches Slurm."""
    site.slurm.submit("research")
    site.slurm.now_s += 100
    assert site.store.acquire_lease("controller", "other", 15, site.slurm.now()) is not None
    with pytest.raises(StoreConflict):
        site.controller.run(site.token)
    assert site.slurm.log == []


class Killed(BaseException):
    """The daemon dies here."""


def _story(site: Site, crash_at: int) -> int:
    """Borrow, reclaim with checkpoints, end; the daemon dies at boundary `crash_at`. Returns boundaries passed."""
    passed = 0

    def crash(_boundary: str) -> None:
        nonlocal passed
        passed += 1
        if passed == crash_at:
            raise Killed

    def cycles(count: int) -> None:
        for _ in range(count):
            try:
                site.controller.run(site.token)
            except Killed:
                site.boot(crash)
                site.controller.run(site.token)
            site.slurm.tick()
            for job in set(site.done("signal USR1")) - confirmed:
                site.confirm(job)
                confirmed.add(job)

    confirmed = set[str]()
    site.slurm.interrupt = crash
    site.boot(crash)
    research = [site.slurm.submit("research", ckpt="auto") for _ in range(3)]
    research.append(site.slurm.submit("research"))
    cycles(6)
    gang = site.slurm.submit("prod", tasks=2)
    cycles(30)
    assert site.state(gang) is JobState.RUNNING, crash_at
    running = [job for job in research if site.state(job) is JobState.RUNNING]
    waiting = [job for job in research if job not in running]
    assert len(running) == 2, crash_at
    assert all(site.slurm.records[job].priority == 0 for job in waiting), crash_at
    assert all(site.slurm.records[job].restarts == 1 for job in waiting), crash_at
    assert site.store.open_actions() == [], crash_at
    assert sorted(line.victim.job_id for line in site.store.preemptions()) == waiting, crash_at
    assert site.store.fences() == [], crash_at
    site.slurm.end(gang)
    cycles(8)
    assert all(site.state(job) is JobState.RUNNING for job in research), crash_at
    return passed


def test_killed_at_every_boundary_the_story_ends_the_same() -> None:
    """Whatever boundary between store and Slurm the daemon dies at, a restart finishes or rolls back."""
    boundaries = _story(Site(), 0)
    assert boundaries > 20
    for at in range(1, boundaries + 1):
        _story(Site(), at)
