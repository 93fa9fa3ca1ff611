"""Without slurmextd or an agent Slurm goes on as if slurmext were not there, and what happened meanwhile is caught up."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import Site

pytestmark = pytest.mark.cluster


def stop_daemon(site: Site) -> None:
    """Kill slurmextd and wait until job_submit takes it for dead."""
    site.cluster.kill("slurmextd")
    heartbeat = site.cluster.layout.slurmext_run / "heartbeat"
    site.until(lambda: time.time() - float(heartbeat.read_text()) > site.stale_s + 1)


def node_state(site: Site, node: str) -> str:
    return site.cluster.out("sinfo", "--noheader", f"--nodes={node}", "--format=%T")


def queue_used(site: Site, path: str) -> int:
    rows = json.loads(site.slurmext("queue", "list", "--json"))
    return next(row["used"] for row in rows if row["path"] == path)


def test_without_the_daemon_jobs_run_and_are_adopted_when_it_is_back(site: Site) -> None:
    """Those that run count in their queue, those that wait are held and planned; nothing is killed or forgotten."""
    admitted = site.submit("alice", "--queue=research", "--gres=gpu:8")
    site.until_running(admitted)
    stop_daemon(site)
    running = [
        site.submit("bob", "--queue=prod", "--gres=gpu:8"),
        site.submit("alice", "--gres=gpu:8"),
        site.submit("alice", "--queue=research", "--gres=gpu:8"),
    ]
    site.until_running(*running)
    waiting = site.submit("bob", "--queue=prod", "--gres=gpu:8")
    assert "held=0" in site.cluster.out("scontrol", "show", "job", waiting)
    assert site.field(waiting, "Priority") != "0"
    site.cluster.start("slurmextd")
    # prod is owed 16 GPUs and has 8: one of alice's borrowed jobs makes room for the one that waited
    site.until_running(waiting)
    site.until(lambda: not site.store.open_actions())
    queues = {row.job.job_id: row.queue for row in site.store.jobs()}
    assert queues == {
        admitted: "research", running[0]: "prod", running[1]: "research", running[2]: "research", waiting: "prod",
    }  # fmt: skip
    kinds = [action.kind.value for action in reversed(site.store.actions(job_id=waiting))]
    assert kinds == ["hold", "release"]
    site.until(lambda: queue_used(site, "prod") == 16)
    assert site.job(admitted).restarts + site.job(running[0]).restarts == 0


def test_a_job_held_by_a_daemon_that_died_is_admitted_by_the_next(site: Site) -> None:
    """Killed right after the job was held for it: nobody is left behind held."""
    site.cluster.kill("slurmextd", signal.SIGSTOP)
    job = site.submit("alice", "--queue=research", "--gres=gpu:8")
    site.cluster.kill("slurmextd")
    assert (site.state(job), site.field(job, "Priority")) == ("PENDING", "0")
    site.cluster.start("slurmextd")
    site.until_running(job)


def test_an_agent_killed_during_a_prolog(site: Site) -> None:
    """The prolog asks an agent that hangs and then dies: the job starts, its node is not drained, nor is it later."""
    site.cluster.kill("agent@n2", signal.SIGSTOP)
    job = site.submit("alice", "--queue=research", "--gres=gpu:1", "--nodelist=n2", script="srun true; sleep 2")
    site.until(lambda: site.state(job) in {"RUNNING", "CONFIGURING"})
    site.cluster.kill("agent@n2")
    site.until_ended(job)
    assert site.job(job).state == "COMPLETED"
    assert node_state(site, "n2") in {"idle", "completing", "mixed"}
    site.cluster.start("agent@n2")
    after = site.submit("alice", "--queue=research", "--gres=gpu:1", "--nodelist=n2", script="srun true")
    site.until_ended(after)
    assert site.job(after).state == "COMPLETED"


def test_an_agent_that_hangs_holds_nothing_up_for_long(site: Site) -> None:
    """The hooks give up at their deadline: the job runs and ends, and its node is not drained."""
    site.cluster.kill("agent@n3", signal.SIGSTOP)
    try:
        job = site.submit("alice", "--queue=research", "--gres=gpu:1", "--nodelist=n3", script="srun true")
        site.until_ended(job)
        assert site.job(job).state == "COMPLETED"
        assert node_state(site, "n3") in {"idle", "completing", "mixed"}
    finally:
        site.cluster.kill("agent@n3", signal.SIGCONT)


def test_a_checkpoint_confirmed_while_nobody_listened_is_not_lost(site: Site) -> None:
    """Told to the agent while slurmextd is dead, then the agent is killed too: both are started, and know of it."""
    job = site.submit_saver("alice", "--queue=research", "--gres=gpu:1", "--nodelist=n1")
    site.until(lambda: "ready" in site.output("alice", job))
    site.cluster.kill("slurmextd")
    site.cluster.run(["scancel", "--signal=USR1", "--full", job])
    site.until(lambda: "saved" in site.output("alice", job))
    site.cluster.kill("agent@n1")
    site.cluster.start("slurmextd")
    site.cluster.start("agent@n1")
    saved = site.until(lambda: site.store.last_checkpoints([job]).get(job))
    assert (saved.node, saved.path.startswith(str(site.cluster.home("alice")))) == ("n1", True)
    assert site.state(job) == "RUNNING"
    assert site.slurmext("ckpt", "list").count(saved.path) == 1


def test_a_victim_whose_agent_is_dead_is_requeued_after_its_grace(site: Site) -> None:
    """Its confirmation cannot arrive: it has saved, is requeued when the grace is over, and resumes."""
    jobs = [site.submit_saver("alice", "--queue=research", "-N2", "--gres=gpu:8") for _ in range(2)]
    site.until(lambda: all("ready" in site.output("alice", job) for job in jobs))
    for node in site.cluster.node_names:
        site.cluster.kill(f"agent@{node}")
    gang = site.submit("bob", "--queue=prod", "-N2", "--gres=gpu:8")
    site.until_running(gang)
    [gone] = [job for job in jobs if site.job(job).restarts]
    [line] = site.until(lambda: site.store.preemptions(job_id=gone))
    assert (line.confirmed_s, line.ended_s - (line.signalled_s or 0) >= site.grace_s) == (None, True)
    assert list((site.cluster.home("alice") / "slurmext-ckpt" / gone).glob("save-*"))
    site.cluster.run(["scancel", gang])
    site.until(lambda: "resumed at" in site.output("alice", gone))
    assert set(node_state(site, ",".join(site.cluster.node_names)).split()) <= {
        "idle",
        "mixed",
        "allocated",
        "completing",
    }
