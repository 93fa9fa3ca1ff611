"""Who must leave: whoever has least work since the last checkpoint that was confirmed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.model.state import CheckpointRecord
from tests.unit.controller.site import Site, borrow_everything


@pytest.fixture
def site() -> Site:
    return Site()


def victims(site: Site) -> set[str]:
    """Whom a gang of two nodes takes the place of."""
    site.slurm.submit("prod", tasks=2)
    site.rounds(2)
    return set(site.done("signal USR1"))


def saved(site: Site, job_id: str, ago_s: float, **more: float) -> CheckpointRecord:
    """A checkpoint of so long ago, confirmed at once."""
    at_s = site.slurm.now() - ago_s
    record = CheckpointRecord(job_id=job_id, step=1, path="/c", size_bytes=1, saved_s=at_s, confirmed_s=at_s, node="n1")
    return replace(record, **more)


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (0, 3)])
def test_those_that_saved_last_leave(site: Site, pair: tuple[int, int]) -> None:
    """Four jobs that began together: the two with the newest confirmed checkpoints, whichever they are."""
    jobs = borrow_everything(site, ckpt="auto")
    site.rounds(1, seconds=600)
    for number, job in enumerate(jobs):
        site.store.record_checkpoint(saved(site, job, ago_s=5 if number in pair else 400))
    assert victims(site) == {jobs[number] for number in pair}


def test_an_older_save_that_is_told_late_is_no_newer_one(site: Site) -> None:
    """What counts is when it was saved, not when it was heard of."""
    jobs = borrow_everything(site, ckpt="auto")
    site.rounds(1, seconds=600)
    for job in jobs[:2]:
        site.store.record_checkpoint(saved(site, job, ago_s=500, confirmed_s=site.slurm.now()))
    for job in jobs[2:]:
        site.store.record_checkpoint(saved(site, job, ago_s=100))
    assert victims(site) == set(jobs[2:])


def test_what_a_job_of_the_same_id_saved_long_ago_does_not_count(site: Site) -> None:
    """Slurm uses job ids again: a checkpoint confirmed before this job was submitted is another's."""
    jobs = borrow_everything(site, ckpt="auto")
    site.rounds(1, seconds=600)
    for job in jobs[:2]:
        site.store.record_checkpoint(saved(site, job, ago_s=5, confirmed_s=1.0))
    for job in jobs[2:]:
        site.store.record_checkpoint(saved(site, job, ago_s=400))
    assert victims(site) == set(jobs[2:])
