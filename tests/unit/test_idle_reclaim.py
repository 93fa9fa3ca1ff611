"""Idle GPUs through the controller, over a Slurm in memory: warned, spared, requeued; and what nobody may act on."""

from __future__ import annotations

from typing import Any

import pytest

from slurmext.model.job import JobState, NodeGpus
from slurmext.model.state import Extension, GpuActivity, GpuState, JobKey
from slurmext.service.apply import Applier
from slurmext.service.cycle import Controller
from slurmext.testing.fake_cluster import FakeCluster
from slurmext.testing.memory_store import MemoryStore

POLICY = """version: 1
settings: {grace_s: 20, default_queue: research}
queues:
  research: {guaranteed: 8, idle: {after_s: 300, grace_s: 100}}
  prod: {guaranteed: 8}
"""


class Site:
    """Two nodes; the agents' words come from the test."""

    def __init__(self) -> None:
        self.slurm, self.store = FakeCluster(nodes=2), MemoryStore()
        self.slurm.requeue_delay_s = 121
        self.store.apply_policy(POLICY, "root", self.slurm.now())
        lease = self.store.acquire_lease("controller", "me", 1e9, self.slurm.now())
        assert lease is not None
        self.token = lease.token
        applier = Applier(store=self.store, reader=self.slurm, actuator=self.slurm, clock=self.slurm)
        self.controller = Controller(store=self.store, reader=self.slurm, applier=applier, clock=self.slurm)

    def run_job(self, queue: str = "research", gpus: int = 8, tasks: int = 1, **more: object) -> str:
        job = self.slurm.submit(queue, gpus=gpus, tasks=tasks, **more)  # type: ignore[arg-type]
        self.pass_s(3, every_s=1)
        assert self.slurm.records[job].state is JobState.RUNNING
        return job

    def pass_s(self, seconds: float, *, every_s: float = 10) -> None:
        for _ in range(int(seconds / every_s)):
            self.controller.run(self.token)
            self.slurm.tick(every_s)
        self.controller.run(self.token)

    def say(self, job: str, node: str = "n1", **more: Any) -> None:
        """An agent says that the job idles since now."""
        now_s = self.slurm.now()
        given = {"state": GpuState.IDLE, "idle_since_s": now_s, "valid_until_s": now_s + 1e6, "started_s": now_s,
                 "at_s": now_s, "gpus": 8, **more}  # fmt: skip
        self.store.record_gpu_activity(GpuActivity(job_id=job, node=node, **given))

    def notices(self) -> list[tuple[str, str]]:
        return [(notice.job.job_id, notice.reason) for notice in self.store.notices()]

    def acts(self, kind: str) -> list[str]:
        return [job for what, job in self.slurm.log if what.startswith(kind)]

    def state(self, job: str) -> JobState:
        return self.slurm.records[job].state


@pytest.fixture
def site() -> Site:
    return Site()


def test_an_idle_job_is_warned_once_and_requeued_after_its_grace(site: Site) -> None:
    """The owner finds it in the job's output, its timeline and its notices; then the job leaves for nobody."""
    job = site.run_job()
    site.say(job)
    site.pass_s(280)
    assert site.notices() == []
    site.pass_s(30)
    assert site.notices() == [(job, "IDLE_GPUS")]
    site.pass_s(60)
    ((words, told),) = [(what, who) for what, who in site.slurm.log if what.startswith("notify")]
    assert told == job
    assert f"slurmext job extend {job}" in words
    assert site.acts("requeue") == []
    assert [event.kind for event in site.store.events(job_id=job)].count("notice") == 1
    site.pass_s(50)
    assert site.acts("requeue") == [job]
    site.pass_s(20)
    assert site.notices() == []
    (line,) = site.store.preemptions()
    assert (line.victim.job_id, line.reason, line.beneficiary, line.to_queue) == (job, "IDLE_GPUS", "", "")


def test_a_job_that_works_again_loses_its_warning(site: Site) -> None:
    """And when it idles later it is warned again, with the whole grace."""
    job = site.run_job()
    site.say(job)
    site.pass_s(350)
    assert site.notices() == [(job, "IDLE_GPUS")]
    site.say(job, state=GpuState.WORKING, idle_since_s=None)
    site.pass_s(200)
    assert site.notices() == []
    assert "notice.over" in [event.kind for event in site.store.events(job_id=job)]
    site.say(job)
    site.pass_s(380)
    assert site.acts("requeue") == []
    assert len(site.acts("notify")) == 2
    site.pass_s(40)
    assert site.acts("requeue") == [job]


def test_an_extended_job_is_spared_and_then_warned_anew(site: Site) -> None:
    """The warning goes at once; when the extension is over there is a new one with its grace."""
    job = site.run_job()
    site.say(job)
    site.pass_s(350)
    until_s = site.slurm.now() + 500
    key = JobKey(job_id=job, submit_s=1000)
    site.store.record_extension(Extension(job=key, keep_until_s=until_s, asked_by="alice", asked_s=site.slurm.now()))
    site.pass_s(490)
    assert site.notices() == []
    site.pass_s(30)
    assert site.notices() == [(job, "IDLE_GPUS")]
    site.pass_s(60)
    assert site.acts("requeue") == []
    site.pass_s(50)
    assert site.acts("requeue") == [job]


def test_nobody_leaves_unwarned_although_the_daemon_was_away(site: Site) -> None:
    """A daemon that comes back to a job that idled for hours warns it first."""
    job = site.run_job()
    site.say(job)
    site.slurm.tick(10_000)
    site.pass_s(80)
    assert site.notices() == [(job, "IDLE_GPUS")]
    assert site.acts("requeue") == []
    site.pass_s(30)
    assert site.acts("requeue") == [job]


def test_a_word_that_was_not_confirmed_counts_no_longer(site: Site) -> None:
    """An agent that fell silent has left nobody who knows: nothing happens, a standing warning goes."""
    job = site.run_job()
    site.say(job, valid_until_s=site.slurm.now() + 350)
    site.pass_s(320)
    assert site.notices() == [(job, "IDLE_GPUS")]
    site.pass_s(400)
    assert site.notices() == []
    assert site.acts("requeue") == []


@pytest.mark.parametrize("last", ["working", "unknown", "silent", "idle"])
def test_a_job_on_two_nodes_idles_only_on_both(site: Site, last: str) -> None:
    """One node that works, does not know or says nothing is enough to spare it."""
    job = site.run_job(gpus=8, tasks=2)
    assert {part.node for part in site.slurm.records[job].placement} == {"n1", "n2"}
    site.say(job, "n1")
    site.slurm.tick(50)
    if last != "silent":
        site.say(job, "n2", state=GpuState(last), idle_since_s=site.slurm.now() if last == "idle" else None)
    site.pass_s(280)
    assert site.notices() == [], "it idles since the second node does"
    site.pass_s(200)
    assert site.acts("requeue") == ([job] if last == "idle" else [])


@pytest.mark.parametrize("delay_s", [5, 121])
def test_words_of_an_earlier_run_do_not_count(site: Site, delay_s: int) -> None:
    """A job that was requeued and runs again is not idle by what was said of it before, however soon it is back."""
    site.slurm.requeue_delay_s = delay_s
    job = site.run_job()
    site.say(job)
    site.slurm.requeue([job])
    site.slurm.tick(delay_s + 1)
    site.pass_s(20)
    assert site.state(job) is JobState.RUNNING
    assert site.slurm.records[job].placement == (NodeGpus(node="n1", gpus=8),)
    site.pass_s(1000)
    assert site.notices() == []
    assert site.acts("requeue") == [job], "the one above"


def test_queues_without_the_rule_are_not_asked_about(site: Site) -> None:
    """Their jobs may idle for ever."""
    job = site.run_job("prod")
    site.say(job)
    site.pass_s(2000)
    assert site.notices() == []


def test_an_idle_job_comes_back_behind_those_who_waited(site: Site) -> None:
    """It does not take its place back from jobs that were submitted after it, only from those after it left."""
    idle = site.run_job()
    other = site.run_job("prod")
    site.say(idle)
    site.pass_s(350)
    first, second = (site.slurm.submit("research") for _ in range(2))
    site.pass_s(100)
    assert site.acts("requeue") == [idle]
    last = site.slurm.submit("research")
    order = []
    for _ in range(4):
        site.pass_s(150)
        (running,) = [job for job in (first, second, idle, last) if site.slurm.records[job].slurm_state == "RUNNING"]
        order.append(running)
        site.slurm.end(running)
    assert order == [first, second, idle, last]
    assert site.state(other) is JobState.RUNNING


def test_many_idle_jobs_are_warned_in_turn(site: Site) -> None:
    """Those of the next cycle get their whole grace from then on."""
    from slurmext.service.notices import MOST_WARNED

    site.slurm.nodes = FakeCluster(nodes=1, gpus=100).nodes
    jobs = [site.slurm.submit("research", gpus=1) for _ in range(MOST_WARNED + 10)]
    site.pass_s(10, every_s=1)
    for job in jobs:
        site.say(job)
    site.slurm.tick(400)
    site.controller.run(site.token)
    assert len(site.notices()) == MOST_WARNED
    site.slurm.tick(60)
    site.controller.run(site.token)
    assert len(site.notices()) == MOST_WARNED + 10
    site.slurm.tick(60)
    site.controller.run(site.token)
    assert len(site.acts("requeue")) == MOST_WARNED
    site.slurm.tick(60)
    site.controller.run(site.token)
    assert len(site.acts("requeue")) == MOST_WARNED + 10
