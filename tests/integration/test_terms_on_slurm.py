"""What Slurm itself keeps jobs from: licenses, reservations, nodes of their own, jobs of one name. No loop, no idle GPU."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import pytest

from slurmext.model.state import ActionKind, ActionState

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def taken_back(site: Site, *jobs: str) -> list[str]:
    """Jobs whose release started nothing, each as often as that was."""
    return [
        action.job.job_id
        for action in site.store.actions(limit=500)
        if action.job.job_id in jobs and action.kind is ActionKind.RELEASE and action.state is ActionState.ABANDONED
    ]


def run_s(site: Site, job: str) -> tuple[float, float]:
    """When the job's script began and ended."""
    begun, ended = site.output("alice", job).split()
    return float(begun), float(ended)


STAMPED = "date +%s.%N; sleep 4; date +%s.%N"


def test_jobs_that_share_a_license_run_in_turn_and_the_gpus_are_others(site: Site) -> None:
    """Whom the license keeps back is told so, gives up its GPUs within seconds, and starts when the license is free."""
    jobs = [site.submit("alice", "--licenses=solver:1", "--gres=gpu:8", script=STAMPED) for _ in range(3)]
    site.until(lambda: [site.reason(job) for job in jobs].count("SLURM_LIMIT") == 2)
    assert "Licenses: Slurm starts no more" in site.slurmext("job", "explain", jobs[2])
    other = site.submit("bob", "--queue=prod", "--gres=gpu:8", "--nodes=3", script="true")
    site.until_ended(*jobs, other)
    times = sorted(run_s(site, job) for job in jobs)
    assert all(later[0] - earlier[1] < 4 for earlier, later in itertools.pairwise(times)), times
    assert len(taken_back(site, *jobs)) <= 3, "each once, and one more try"


def test_jobs_of_one_name_run_one_after_the_other(site: Site) -> None:
    """--dependency=singleton."""
    jobs = [
        site.submit("alice", "--dependency=singleton", "--job-name=one", "--gres=gpu:1", script=STAMPED)
        for _ in range(2)
    ]
    site.until_ended(*jobs)
    first, second = sorted(run_s(site, job) for job in jobs)
    assert 0 < second[0] - first[1] < 5
    assert taken_back(site, *jobs) == []


def test_a_job_in_a_reservation_uses_what_is_reserved(site: Site) -> None:
    """Though all else is taken, and nobody leaves for it."""
    site.scontrol("create", "reservation", "reservationname=course", "users=alice", "nodes=n4", "starttime=now",
                  "duration=10")  # fmt: skip
    try:
        others = [site.submit("bob", "--gres=gpu:8", "--queue=prod") for _ in range(3)]
        site.until_running(*others)
        job = site.submit("alice", "--reservation=course", "--gres=gpu:4", script="sleep 4")
        more = site.submit("alice", "--reservation=course", "--gres=gpu:8", script="sleep 1")
        site.until_running(job)
        assert site.job(job).nodes == ("n4",)
        site.until_ended(job, more)
        assert taken_back(site, job, more) == []
        assert [site.state(other) for other in others] == ["RUNNING"] * 3
    finally:
        site.cluster.cancel_all()
        site.scontrol("delete", "reservationname=course")


def test_a_job_that_wants_its_nodes_alone_is_sent_where_it_has_them(site: Site) -> None:
    """Not beside others, where Slurm would not start it; and nobody is sent beside it."""
    beside = [site.submit("alice", "--gres=gpu:1", "--no-preempt", f"--nodelist=n{n}", script="sleep 6") for n in (1, 2, 3, 4)]  # fmt: skip
    site.until_running(*beside)
    job = site.submit("alice", "--exclusive", "--gres=gpu:1", script="sleep 5")
    site.until(lambda: site.reason(job))
    site.until_running(job)
    late = site.submit("bob", "--queue=prod", "--gres=gpu:1", "--nodes=4", script="true")
    time.sleep(1)
    assert site.state(late) == "PENDING"
    site.until_ended(job, late)
    assert taken_back(site, job, late) == []
