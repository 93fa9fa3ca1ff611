"""Limits that Slurm itself has: jobs that it would not start are taken back soon, and released as others end."""

from __future__ import annotations

from collections import Counter

import pytest

from slurmext.model.cluster import Annotation, JobRecord
from slurmext.model.job import JobState
from slurmext.service.limits import kinds, refused_by
from tests.unit.controller.site import Site


def running(site: Site, *jobs: str) -> int:
    return sum(site.state(job) is JobState.RUNNING and site.slurm.records[job].end_s is None for job in jobs)


def reasons(site: Site) -> dict[str, str]:
    return {row.job.job_id: row.reason for row in site.store.jobs()}


def test_what_a_limit_keeps_from_starting_gives_its_gpus_to_others_within_seconds(site: Site) -> None:
    """And waits for a reason of its own, held, without being tried over and over."""
    site.slurm.user_max = 2
    jobs = [site.slurm.submit("research") for _ in range(4)]
    site.rounds(6)
    assert running(site, *jobs) == 2
    assert [reasons(site)[job] for job in jobs[2:]] == ["SLURM_LIMIT"] * 2
    other = site.slurm.submit("prod", 8, 2, user="bob")
    site.rounds(3)
    assert site.state(other) is JobState.RUNNING
    site.rounds(15)
    assert Counter(site.done("release")) == Counter([*jobs, other]), "none was released again"
    message = next(row.message for row in site.store.jobs() if row.job.job_id == jobs[3])
    assert message == "QOSMaxJobsPerUserLimit: Slurm starts no more jobs like it while 2 are running"


def test_each_end_lets_one_more_start_at_once_and_nobody_is_taken_back_again(site: Site) -> None:
    """No pause, and no loop."""
    site.slurm.user_max = 2
    jobs = [site.slurm.submit("research", 1) for _ in range(6)]
    site.rounds(6)
    held = len(site.done("hold"))
    for ended in range(4):
        site.slurm.end(jobs[ended])
        site.rounds(2)
        assert running(site, *jobs[ended + 1 :]) == 2
    assert len(site.done("hold")) == held
    assert Counter(site.done("release")).most_common(1)[0][1] == 2


def test_a_limit_that_was_lifted_is_noticed(site: Site) -> None:
    """One more is tried now and then; when that one starts, so do the others."""
    site.slurm.user_max = 1
    jobs = [site.slurm.submit("research", 1) for _ in range(8)]
    site.rounds(20)
    assert running(site, *jobs) == 1
    site.rounds(40)
    tried = len(site.done("release"))
    assert tried <= 10, "one at a time, and seldom"
    site.slurm.user_max = None
    site.rounds(90)
    assert running(site, *jobs) == 8


def test_the_end_of_another_job_of_the_user_is_a_reason_to_try(site: Site) -> None:
    """Limits are of users and accounts, whatever their jobs look like."""
    site.slurm.user_max = 1
    first = site.slurm.submit("research", 4)
    site.rounds(2)
    jobs = [site.slurm.submit("research", 1) for _ in range(3)]
    site.rounds(10)
    assert running(site, *jobs) == 0
    site.slurm.end(first)
    site.rounds(3)
    assert running(site, *jobs) == 1


def test_a_limit_is_known_to_the_next_daemon(site: Site) -> None:
    """It is in the record of what was done."""
    site.slurm.user_max = 1
    jobs = [site.slurm.submit("research", 1) for _ in range(3)]
    site.rounds(8)
    before = len(site.done("release"))
    site.boot()
    site.rounds(10)
    assert len(site.done("release")) == before
    assert running(site, *jobs) == 1


@pytest.mark.parametrize(
    ("reason", "limit"),
    [
        ("QOSMaxGRESPerUser", "QOSMaxGRESPerUser"),
        ("AssocGrpGRES", "AssocGrpGRES"),
        ("Licenses", "Licenses"),
        ("Resources", ""),
        ("Priority", ""),
        ("None", ""),
        ("ReqNodeNotAvail, UnavailableNodes:n1", ""),
        ("BeginTime", ""),
    ],
)
def test_reasons_that_other_nodes_or_time_would_help_are_no_limits(reason: str, limit: str) -> None:
    """Those are planned anew as before."""
    assert refused_by(JobRecord(slurm_id="1", reason=reason)) == limit


def test_a_job_is_like_another_whatever_slurm_made_of_its_time_limit() -> None:
    """Slurm gives a job without one a year when it starts."""
    waits = JobRecord(slurm_id="1", user="ann", annotation=Annotation(queue="research"), gpus_per_task=2)
    runs = JobRecord(slurm_id="2", user="ann", annotation=Annotation(queue="research"), gpus_per_task=2,
                     time_limit_s=31536000, cpus=2)  # fmt: skip
    assert kinds(waits)[0] == kinds(runs)[0]
    assert kinds(waits)[1] != kinds(runs)[1]
    assert kinds(waits)[0] != kinds(JobRecord(slurm_id="3", user="ann", terms="low - -"))[0]
