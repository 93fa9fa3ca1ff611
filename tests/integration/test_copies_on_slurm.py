"""Copies of checkpoints in nodes' memory: a node is lost with all that it had, and the job goes on from another's."""

from __future__ import annotations

import os
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
  research: {guaranteed: 24, max: 24}
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


@pytest.fixture(scope="module")
def booted() -> Iterator[Site]:
    """Three nodes with networks of their own: one runs the job, one has the copy, one takes over."""
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd runs jobs as their users")
    spec = ClusterSpec(
        name=f"test-copies-{os.getpid()}", nodes=3, gpus=8, netns=True, users=("alice", "bob"),
        conf={"KillWait": "4"}, site={"daemon": {"interval_s": 5}},
    )  # fmt: skip
    with Devcluster.up(spec) as cluster:
        site = Site(cluster)
        site.apply(POLICY)
        yield site
        site.store.close()


def lose(site: Site, node: str, disk: Path) -> None:
    """The node is gone with its memory, its disk and everything that ran there."""
    cluster = site.cluster
    for pid in _processes_of(cluster, node):
        os.kill(pid, signal.SIGKILL)
    for part in (f"slurmd@{node}", f"agent@{node}"):
        cluster.kill(part)
    shutil.rmtree(disk)
    shutil.rmtree(cluster.layout.state / "copies" / f"{cluster.spec.name}-{node}")
    site.scontrol("update", f"NodeName={node}", "State=DOWN", "Reason=lost")


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


def test_a_job_goes_on_from_another_nodes_memory_when_its_node_is_lost(booted: Site) -> None:
    """Its checkpoint directory was on the lost node's own disk; the copy comes over the network, and becomes durable."""
    site = booted
    home = site.cluster.home("alice")
    (home / "program.py").write_text(PROGRAM)
    disk = home / "local-disk"
    env = {"PYTHONPATH": str(site.cluster.layout.python)}
    job = site.submit(
        "alice", "--ckpt=auto", f"--ckpt-dir={disk}", "--gres=gpu:8", env=env,
        script="/usr/bin/python3 program.py",
    )  # fmt: skip
    site.until(lambda: len(site.output("alice", job).split("saved")) > 3)
    site.until(lambda: {copy.tier for copy in site.store.copies(job_id=job)} == {"memory", "peer"})
    (peer,) = {copy.node for copy in site.store.copies(job_id=job) if copy.tier == "peer"}
    saved = int(site.output("alice", job).rpartition("saved ")[2].split()[0])
    site.until(lambda: any(f"step-{saved}" in c.name or int(c.name.rpartition("-")[2]) > saved
                           for c in site.store.copies(job_id=job, node=peer)))  # fmt: skip
    first = site.field(job, "NodeList")
    third = ({"n1", "n2", "n3"} - {first, peer}).pop()
    lost_s = time.time()
    lose(site, first, disk)
    site.scontrol("update", f"NodeName={peer}", "State=DRAIN", "Reason=test")  # its agent goes on
    site.until(lambda: site.output("alice", job).count("begins at") == 2, timeout_s=90)
    words = site.output("alice", job).rpartition("begins at ")[2].split()
    assert int(words[0]) >= saved
    assert words[1] == "True"
    assert site.field(job, "NodeList") == third
    assert "restored from a copy in memory" in site.output("alice", job)
    site.until(lambda: any(path.name.startswith("save-") for path in disk.iterdir()))
    failures = site.until(lambda: site.store.failures(since_s=lost_s))
    assert (failures[0].node_count, failures[0].nodes) == (1, first)
    site.cluster.run(["scancel", job])
    site.until_ended(job)
    others = site.cluster.run(["ls", str(site.cluster.layout.state / "copies" / f"{site.cluster.spec.name}-{peer}")],
                              user="bob", check=False)  # fmt: skip
    assert others.returncode != 0, "copies are the agent's alone"
