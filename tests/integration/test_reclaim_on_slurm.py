"""Prod takes back its guarantee from research on a real Slurm, between ordinary users."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import Site

pytestmark = pytest.mark.cluster


def victims(site: Site, jobs: list[str]) -> list[str]:
    """The jobs that Slurm has requeued."""
    return [job for job in jobs if site.job(job).restarts]


def test_a_gang_gets_its_guarantee_back_whole(site: Site) -> None:
    """Two of alice's four jobs are requeued once and held, bob's gang starts on their nodes, then they run again."""
    jobs = site.fill()
    before = {job: site.job(job) for job in jobs}
    gang = site.submit("bob", "--queue=prod", "-N2", "--gres=gpu:8", script="srun printenv SLURMD_NODENAME; sleep 2")
    site.until(lambda: site.state(gang) in {"RUNNING", "COMPLETED"})
    gone = victims(site, jobs)
    assert len(gone) == 2
    assert sorted(site.job(gang).nodes) == sorted(node for job in gone for node in before[job].nodes)
    for job in set(jobs) - set(gone):
        assert site.job(job) == before[job], "not touched"
    site.until_ended(gang)
    assert len(set(site.output("bob", gang).split())) == 2, "both nodes from the start"
    site.until(lambda: not site.store.open_actions())
    ledger = {(line.victim.job_id, line.victim_user, line.beneficiary) for line in site.store.preemptions(limit=2)}
    assert ledger == {(job, "alice", gang) for job in gone}
    site.until_running(*jobs)
    assert [site.job(job).restarts for job in gone] == [1, 1]
    # no trace of the placement stays in the request
    assert {site.field(job, "ReqNodeList") for job in jobs} == {"(null)"}


def test_one_task_of_an_array_makes_room_and_comes_back(site: Site) -> None:
    """Array tasks are admitted and evicted one by one."""
    array = site.submit("alice", "--queue=research", "--gres=gpu:8", "--array=1-5")
    tasks = [f"{array}_{index}" for index in range(1, 6)]
    site.until(lambda: [site.states().get(task) for task in tasks].count("RUNNING") == 4)
    waiting = next(task for task in tasks if site.states()[task] == "PENDING")
    running = [task for task in tasks if task != waiting]
    single = site.submit("bob", "--queue=prod", "--gres=gpu:8")
    site.until_running(single)
    gone = victims(site, running)
    assert len(gone) == 1
    site.until(lambda: site.states().get(gone[0]) == "PENDING")
    site.cluster.run(["scancel", single])
    site.until_ended(single)
    # four nodes, five tasks: whichever of the two is in front
    site.until(lambda: [site.states().get(task) for task in tasks].count("RUNNING") == 4)
    assert victims(site, tasks) == gone
    site.until(lambda: [line.victim.job_id for line in site.store.preemptions(limit=1)] == gone)


def test_a_waiting_array_gets_what_its_queue_is_owed(site: Site) -> None:
    """Of bob's four tasks two are within prod's guarantee: two victims leave, and no more."""
    jobs = site.fill()
    array = site.submit("bob", "--queue=prod", "--gres=gpu:8", "--array=1-4")
    site.until(lambda: [site.states().get(f"{array}_{index}") for index in range(1, 5)].count("RUNNING") == 2)
    site.until(lambda: not site.store.open_actions())
    assert len(victims(site, jobs)) == 2
    waiting = [job for job, state in site.states().items() if state == "PENDING"]
    site.until(lambda: all(site.reason(job) for job in waiting))
    assert len(waiting) == 4


def test_the_one_that_loses_least_leaves_and_no_other(site: Site) -> None:
    """Eight jobs of one GPU have run for longer than the one of eight: only that one leaves."""
    small = site.submit("alice", "--queue=research", "--gres=gpu:1", "--array=1-8")
    gang = site.submit("alice", "--queue=research", "-N2", "--gres=gpu:8")
    site.until(lambda: list(site.states().values()).count("RUNNING") == 9)
    site.until(lambda: site.field(gang, "RunTime") >= "00:00:02")
    whole = site.submit("alice", "--queue=research", "--gres=gpu:8")
    site.until_running(whole)
    single = site.submit("bob", "--queue=prod", "--gres=gpu:8")
    site.until_running(single)
    assert victims(site, [gang, whole, *(f"{small}_{index}" for index in range(1, 9))]) == [whole]


def test_a_victim_that_saves_leaves_at_once(site: Site) -> None:
    """The checkpoint is confirmed over the node's agent; nobody waits for the grace to pass."""
    jobs = [site.submit_saver("alice", "--queue=research", "-N2", "--gres=gpu:8") for _ in range(2)]
    site.until(lambda: all("ready" in site.output("alice", job) for job in jobs))
    gang = site.submit("bob", "--queue=prod", "-N2", "--gres=gpu:8")
    site.until_running(gang)
    [gone] = victims(site, jobs)
    assert "saved" in site.output("alice", gone)
    [line] = site.until(lambda: site.store.preemptions(job_id=gone))
    assert line.signalled_s is not None
    assert line.confirmed_s is not None
    assert line.ended_s - line.signalled_s < site.grace_s
    site.cluster.run(["scancel", gang])
    site.until(lambda: "resumed at" in site.output("alice", gone))
