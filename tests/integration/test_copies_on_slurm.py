"""Copies of checkpoints in nodes' memory: a node is lost with all that it had, and the job goes on from another's."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slurmext.devcluster import ClusterSpec, Devcluster, processes
from tests.integration.conftest import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cluster

POLICY = """\
version: 1
settings: {default_queue: research, grace_s: 20, requeue_delay_s: 1}
queues:
  research: {guaranteed: 32, max: 32}
"""
PROGRAM = """\
import sys, time
import numpy as np
from slurmext.checkpoint import Checkpointer
state = {"weights": np.zeros(1 << 17), "step": 0}
checkpoints = Checkpointer(state, every_s=1.0, signals=True)
step = checkpoints.restore() or 0
print("begins at", step, state["weights"].sum() == step * (1 << 17), flush=True)
while True:
    time.sleep(0.05)
    step += 1
    state["weights"] += 1.0
    state["step"] = step
    if checkpoints.due(step):
        checkpoints.save(step)
        print("saved", step, flush=True)
"""

IN_MEMORY = """\
import time
import numpy as np
from slurmext.checkpoint import Checkpointer
state = {"weights": np.zeros(1 << 17), "step": 0}
checkpoints = Checkpointer(state, every_s=None, signals=False, memory_every_s=0.5)
step = checkpoints.restore() or 0
print("begins at", step, state["weights"].sum() == step * (1 << 17), flush=True)
told, durable = 0, None
while True:
    time.sleep(0.05)
    step += 1
    state["weights"] += 1.0
    state["step"] = step
    if checkpoints.due(step):  # one in memory
        checkpoints.save(step)
    elif not durable:
        durable = checkpoints.save(step)
    if (checkpoints.memory.kept_step or 0) > told:
        told = checkpoints.memory.kept_step
        print("kept", told, flush=True)
"""
OF_RANKS = """\
import time
import numpy as np
from slurmext.checkpoint import Checkpointer
state = {"weights": np.zeros(1 << 20), "step": 0}
checkpoints = Checkpointer(state, every_s=None, signals=False, memory_every_s=0.5, replicated=True)
step = checkpoints.restore() or 0
rank = checkpoints.place.rank
print(f"rank {rank} of {checkpoints.place.world} begins at", step, (state["weights"] == step).all(), flush=True)
told = 0
while True:
    time.sleep(0.05)
    step += 1
    state["weights"] += 1.0
    state["step"] = step
    if checkpoints.due(step):
        checkpoints.save(step)
    if rank == 0 and (checkpoints.memory.kept_step or 0) > told:
        told = checkpoints.memory.kept_step
        print("kept", told, flush=True)
"""
NODES = ("n1", "n2", "n3", "n4")


@pytest.fixture(scope="module")
def booted() -> Iterator[Site]:
    """Nodes with networks of their own: one runs the job, one has the copy, one takes over; and one more to lose."""
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd runs jobs as their users")
    spec = ClusterSpec(
        name=f"test-copies-{os.getpid()}", nodes=len(NODES), gpus=8, netns=True, users=("alice", "bob"),
        conf={"KillWait": "4"}, site={"daemon": {"interval_s": 5}},
    )  # fmt: skip
    with Devcluster.up(spec) as cluster:
        site = Site(cluster)
        site.apply(POLICY)
        yield site
        site.store.close()


def submit(site: Site, name: str, program: str, *options: str, launcher: str = "") -> tuple[str, Path]:
    """Alice's job that runs this program on whole nodes, and its checkpoint directory."""
    home = site.cluster.home("alice")
    (home / f"{name}.py").write_text(program)
    disk = home / f"{name}-disk"
    job = site.submit(
        "alice", "--ckpt=auto", f"--ckpt-dir={disk}", "--gres=gpu:8", *options,
        script=f"{launcher} /usr/bin/python3 {name}.py", env={"PYTHONPATH": str(site.cluster.layout.python)},
    )  # fmt: skip
    return job, disk


def end(site: Site, job: str) -> None:
    site.cluster.run(["scancel", job])
    site.until_ended(job)


def put(site: Site, state: str, *nodes: str) -> None:
    """Nodes into what an administrator may put them into: DOWN, DRAIN, RESUME. Their agents go on."""
    why = () if state == "RESUME" else ("Reason=test",)
    site.scontrol("update", f"NodeName={','.join(nodes)}", f"State={state}", *why)


def kill_all_on(cluster: Devcluster, node: str) -> None:
    """Whatever runs there but for slurmd and the agent."""
    for pid in _processes_of(cluster, node):
        os.kill(pid, signal.SIGKILL)


def lose(site: Site, node: str, disk: Path) -> None:
    """The node is gone with its memory, its disk and everything that ran there."""
    cluster = site.cluster
    kill_all_on(cluster, node)
    for part in (f"slurmd@{node}", f"agent@{node}"):
        cluster.kill(part)
    shutil.rmtree(disk)
    shutil.rmtree(cluster.layout.state / "copies" / f"{cluster.spec.name}-{node}")
    put(site, "DOWN", node)


def _processes_of(cluster: Devcluster, node: str) -> list[int]:
    """What runs in the node's network, but for what keeps that there."""
    keep = {cluster.pid(f"slurmd@{node}"), cluster.pid(f"agent@{node}")}
    keep.add(processes.pid_of(f"holder@{node}", cluster.layout))
    inside = Path(f"/proc/{cluster.pid(f'slurmd@{node}')}/ns/net").readlink()
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if Path(f"/proc/{name}/ns/net").readlink() == inside and int(name) not in keep:
                found.append(int(name))
        except OSError:
            continue
    return found


def kept(site: Site, job: str) -> int:
    """The newest step that the job says is in memory, 0 for none."""
    return max(map(int, re.findall(r"kept (\d+)", site.output("alice", job))), default=0)


def begun(site: Site, job: str, times: int) -> int:
    """The step that the job's run number `times` began at, with the right weights."""
    site.until(lambda: len(site.output("alice", job).split("begins at ")) > times, timeout_s=90)
    step, right = site.output("alice", job).split("begins at ")[times].split()[:2]
    assert right == "True"
    return int(step)


def peer_with(site: Site, job: str, step: int) -> str:
    """The one other node whose agent has this step or a later one."""

    def nodes() -> set[str]:
        copies = site.store.copies(job_id=job)
        return {c.node for c in copies if c.tier == "peer" and int(c.name.rpartition("-")[2]) >= step}

    (peer,) = site.until(nodes)
    return peer


def until_durable(site: Site, disk: Path) -> None:
    """Until a checkpoint is in the directory."""
    site.until(lambda: list(disk.glob("save-*")))


def test_what_was_saved_in_memory_is_there_after_the_job_was_killed_and_after_its_node_was_lost(booted: Site) -> None:
    """Between two checkpoints on disk: first on its node, whose agent has it, then from another node's agent."""
    site = booted
    job, disk = submit(site, "memory", IN_MEMORY)
    until_durable(site, disk)
    (on_disk,) = [int(path.name.rpartition("-")[2]) for path in disk.glob("save-*")]
    site.until(lambda: kept(site, job) > on_disk)
    first = site.field(job, "NodeList")
    others = [node for node in NODES if node != first]
    last = kept(site, job)
    kill_all_on(site.cluster, first)
    put(site, "DOWN", first)
    put(site, "DRAIN", *others)
    put(site, "RESUME", first)
    assert begun(site, job, 2) >= last
    assert site.field(job, "NodeList") == first
    put(site, "RESUME", *others)
    began = kept(site, job)
    site.until(lambda: kept(site, job) > began)
    before = kept(site, job)
    peer = peer_with(site, job, before)
    lose(site, first, disk)
    put(site, "DRAIN", peer)
    assert begun(site, job, 3) >= before
    assert site.field(job, "NodeList") not in {first, peer}
    until_durable(site, disk)
    shown = site.slurmext("ckpt", "show", job, "-nP", "-o", "Tier")
    assert {"memory", "directory"} <= set(shown.split())
    end(site, job)
    put(site, "RESUME", peer)


@pytest.mark.slow
def test_ranks_get_their_parts_from_wherever_they_are(booted: Site) -> None:
    """Nothing is on disk, each node has one rank's half of the state, and one of them does not run the job again."""
    site = booted
    job, disk = submit(site, "ranks", OF_RANKS, "--nodes=2", "--ntasks-per-node=1", launcher="srun")
    site.until(lambda: kept(site, job))
    last = kept(site, job)
    lost = str(site.field(job, "BatchHost"))
    kill_all_on(site.cluster, lost)
    put(site, "DOWN", lost)
    site.until(lambda: len(re.findall(r"of 2 begins at", site.output("alice", job))) == 4, timeout_s=90)
    found = re.findall(r"rank \d of 2 begins at (\d+) (\w+)", site.output("alice", job))[2:]
    assert [right for _, right in found] == ["True", "True"]
    assert len({step for step, _ in found}) == 1
    assert int(found[0][0]) >= last
    assert lost not in site.field(job, "NodeList")
    until_durable(site, disk)  # no node has all of it, so it is saved anew at once
    end(site, job)
    put(site, "RESUME", lost)


def test_a_job_goes_on_from_another_nodes_memory_when_its_node_is_lost(booted: Site) -> None:
    """Its checkpoint directory was on the lost node's own disk; the copy comes over the network, and becomes durable."""
    site = booted
    job, disk = submit(site, "program", PROGRAM)
    site.until(lambda: len(site.output("alice", job).split("saved")) > 3)
    site.until(lambda: {copy.tier for copy in site.store.copies(job_id=job)} == {"memory", "peer"})
    saved = int(site.output("alice", job).rpartition("saved ")[2].split()[0])
    peer = peer_with(site, job, saved)
    first = site.field(job, "NodeList")
    lost_s = time.time()
    lose(site, first, disk)
    put(site, "DRAIN", peer)
    assert begun(site, job, 2) >= saved
    assert site.output("alice", job).count("begins at") == 2
    assert site.field(job, "NodeList") not in {first, peer}
    assert "restored from a copy in memory" in site.output("alice", job)
    until_durable(site, disk)
    failures = site.until(lambda: site.store.failures(since_s=lost_s))
    assert (failures[0].node_count, failures[0].nodes) == (1, first)
    end(site, job)
    others = site.cluster.run(["ls", str(site.cluster.layout.state / "copies" / f"{site.cluster.spec.name}-{peer}")],
                              user="bob", check=False)  # fmt: skip
    assert others.returncode != 0, "copies are the agent's alone"
