"""Idle GPUs on a real Slurm: agents read them from the simulated driver, the daemon warns, spares and requeues."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import pytest

from slurmext.devcluster import ClusterSpec, Devcluster
from slurmext.testing.nvml import GPU_IS_LOST
from tests.integration.conftest import Site
from tests.integration.gates import Gate
from tests.integration.test_commands_on_slurm import AS_USER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurmext.model.state import Notice

pytestmark = pytest.mark.cluster

SAMPLE_S, AFTER_S, GRACE_S = 0.5, 4, 6
SAVE_S = 30
"""Enough to save for a program on a machine that does much else; who has saved is not waited for."""
NODES = ("n1", "n2")
POLICY = f"""\
version: 1
settings: {{default_queue: research, grace_s: {SAVE_S}, requeue_delay_s: 1}}
queues:
  research: {{guaranteed: 8, idle: {{after_s: {AFTER_S}, grace_s: {GRACE_S}, max_extend_s: 3600}}}}
"""


@pytest.fixture(scope="module")
def booted() -> Iterator[Site]:
    """Two nodes with 4 GPUs, looked at twice a second."""
    spec = ClusterSpec(name=f"idle-{os.getpid()}", nodes=len(NODES), gpus=4, users=("alice", "bob"),
                       site={"agent": {"sample_s": SAMPLE_S}, "daemon": {"interval_s": 1}})  # fmt: skip
    with Devcluster.up(spec) as cluster:
        site = Site(cluster)
        site.apply(POLICY)
        yield site


@pytest.fixture
def site(booted: Site) -> Iterator[Site]:
    """GPUs work and no job is there, before and after."""
    yield booted
    for node in NODES:
        gpus = booted.cluster.gpus(node)
        gpus.set_utilisation(None)
        gpus.set_fault(0)
    booted.cluster.cancel_all()


def idle(site: Site, *nodes: str) -> None:
    for node in nodes or NODES:
        site.cluster.gpus(node).set_utilisation(0)


def notice(site: Site, job: str) -> Notice | None:
    return next((found for found in site.store.notices() if found.job.job_id == job), None)


def started(site: Site, *options: str, user: str = "alice", script: str = "sleep 300") -> str:
    gate = Gate(site.cluster)
    job = site.submit(user, "--gres=gpu:4", *options, script=f"{gate.pass_by}; {script}")
    site.until(lambda: gate.reached(job))
    return job


def slurmext_as(site: Site, user: str, *args: str) -> tuple[int, str]:
    """Exit status and what was printed, by an ordinary user through the daemon."""
    done = site.cluster.run([sys.executable, "-P", "-c", AS_USER, user, *args], check=False)
    return done.returncode, done.stdout + done.stderr


def test_a_working_job_is_left_alone_and_an_idle_one_warned_then_requeued(site: Site) -> None:
    """The warning is in the job's output, `job show` and `job list`; after its grace the job is requeued."""
    idler, worker = started(site), started(site, user="bob")
    nodes = {job: site.job(job).nodes for job in (idler, worker)}
    idle(site, *nodes[idler])
    told = site.until(lambda: notice(site, idler))
    assert told.reason == "IDLE_GPUS"
    assert told.at_s == pytest.approx(told.since_s + GRACE_S, abs=1.5)
    listed = site.slurmext("job", "list", "-P", "-o", "JobID,State,Reason")
    shown, restarts = site.slurmext("job", "show", idler), site.job(idler).restarts
    if time.time() < told.at_s:  # else the machine was too busy to see it in time
        assert f"{idler}|running|IDLE_GPUS" in listed
        assert "IDLE_GPUS" in shown
        assert restarts == 0
    site.until(lambda: f"slurmext job extend {idler}" in site.output("alice", idler))
    site.until(lambda: site.job(idler).restarts)
    assert time.time() > told.since_s + GRACE_S - 1
    site.until(lambda: site.store.preemptions(job_id=idler))
    (line,) = site.store.preemptions(job_id=idler)
    assert (line.reason, line.beneficiary, line.gpus) == ("IDLE_GPUS", "", 4)
    assert notice(site, idler) is None
    assert (site.state(worker), site.job(worker).restarts, notice(site, worker)) == ("RUNNING", 0, None)
    kinds = [event.kind for event in site.store.events(job_id=idler)]
    assert kinds.index("gpus.idle") < kinds.index("notice") < kinds.index("evict.requeued")


def test_an_idle_job_saves_its_checkpoint_before_it_leaves(site: Site) -> None:
    """It is told to save like any other that must leave, and resumes."""
    job = site.submit_saver("alice", "--gres=gpu:4")
    site.until(lambda: "ready" in site.output("alice", job))
    idle(site)
    site.until(lambda: site.job(job).restarts)
    for node in NODES:
        site.cluster.gpus(node).set_utilisation(None)
    site.until(lambda: "resumed at" in site.output("alice", job))


@pytest.mark.slow  # the unit tests of idle reclaim have it as well
def test_an_extended_job_is_spared(site: Site) -> None:
    """Its owner asks through the daemon; nobody else can, and no longer than the policy allows."""
    job = started(site)
    idle(site)
    site.until(lambda: notice(site, job))
    code, said = slurmext_as(site, "bob", "job", "extend", job, "--for", "1h")
    assert (code, "no job" in said) == (1, True), said
    code, said = slurmext_as(site, "alice", "job", "extend", job, "--for", "2h")
    assert (code, "3600 s at a time" in said) == (2, True), said
    code, said = slurmext_as(site, "alice", "job", "extend", job, "--for", "1h")
    assert (code, said.startswith(f"job {job} is kept until")) == (0, True), said
    site.until(lambda: notice(site, job) is None)
    time.sleep(GRACE_S + 3)
    assert (site.state(job), site.job(job).restarts) == ("RUNNING", 0)
    code, said = slurmext_as(site, "alice", "job", "show", job)
    assert "Kept until" in said


@pytest.mark.slow  # the unit tests of idle reclaim have it as well
def test_a_job_that_works_again_is_spared(site: Site) -> None:
    """The warning goes when its GPUs work."""
    job = started(site)
    idle(site)
    site.until(lambda: notice(site, job))
    site.cluster.gpus(site.job(job).nodes[0]).set_utilisation(40, 2)
    site.until(lambda: notice(site, job) is None)
    time.sleep(GRACE_S + 3)
    assert (site.state(job), site.job(job).restarts) == ("RUNNING", 0)


@pytest.mark.slow  # the unit tests of idle reclaim have it as well
def test_a_job_on_two_nodes_idles_only_on_both(site: Site) -> None:
    """One node that works spares it; when that stops as well it is warned."""
    job = started(site, "-N2", script="srun sleep 300")
    idle(site, "n1")
    site.until(lambda: site.store.gpu_activity(job_ids=[job]))
    time.sleep(AFTER_S + 4)
    assert notice(site, job) is None
    idle(site, "n2")
    site.until(lambda: notice(site, job))


def test_when_the_driver_fails_nothing_is_done(site: Site) -> None:
    """A warned job one of whose GPUs is lost is no idle job; when it can be read again, it is warned anew."""
    job = started(site)
    idle(site)
    site.until(lambda: notice(site, job))
    node = site.job(job).nodes[0]
    site.cluster.gpus(node).set_fault(GPU_IS_LOST, 0)
    site.until(lambda: notice(site, job) is None)
    time.sleep(GRACE_S + 3)
    assert (site.state(job), site.job(job).restarts) == ("RUNNING", 0)
    site.cluster.gpus(node).set_fault(0, 0)
    site.until(lambda: notice(site, job))
