"""Unmodified programs under --ckpt=transparent: saved from outside, moved to another node, and what is refused."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from slurmext.devcluster import ClusterSpec, Devcluster, criu, netns
from slurmext.devcluster.spec import NATIVE
from tests.integration.conftest import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.cluster

POLICY = """\
version: 1
settings: {default_queue: research, grace_s: 30, requeue_delay_s: 1}
queues:
  research: {guaranteed: 0, max: 16}
  prod: {guaranteed: 16, max: 16}
"""
COUNTER = """\
import time
log = open("app.log", "a", buffering=1)
for number in range(100_000):
    print(number, flush=True)
    log.write(f"{number}\\n")
    time.sleep(0.05)
"""
PIPELINE = "python3 counter.py | while read number; do echo step $number; done"


@pytest.fixture(
    scope="module",
    params=[NATIVE, pytest.param("trixie", marks=pytest.mark.slow), pytest.param("forky", marks=pytest.mark.slow)],
)
def booted(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Two nodes, each with a host name, a network and 8 GPUs of its own, and a CRIU that is new enough."""
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd runs jobs as their users")
    spec = ClusterSpec(
        name=f"test-criu-{os.getpid()}", release=request.param, nodes=2, gpus=8, netns=True, users=("alice", "bob"), conf={"KillWait": "4"},
        site={"daemon": {"interval_s": 5}, "agent": {"criu": str(criu.ensure(print))}},
    )  # fmt: skip
    with Devcluster.up(spec) as cluster:
        site = Site(cluster)
        site.apply(POLICY)
        yield site
        site.store.close()


def numbers(text: str) -> list[int]:
    """What the counter counted, out of a job's output or log."""
    return [int(line.removeprefix("step ")) for line in text.splitlines() if line.removeprefix("step ").isdigit()]


def test_a_program_that_knows_of_nothing_moves_to_another_node(booted: Site) -> None:
    """A shell pipeline is reclaimed and goes on elsewhere where it was: no line of output or log is lost or twice."""
    site, home = booted, booted.cluster.home("alice")
    (home / "counter.py").write_text(COUNTER)
    job = site.submit("alice", "--ckpt=transparent", "--queue=research", "--gres=gpu:8", script=PIPELINE)
    site.until(lambda: len(numbers(site.output("alice", job))) > 20)
    first = site.field(job, "NodeList")
    other = "n2" if first == "n1" else "n1"
    rival = site.submit("bob", "--queue=prod", "-N2", "--gres=gpu:8", script="sleep 300")
    site.until_running(rival)
    site.scontrol("update", f"NodeName={first}", "State=DRAIN", "Reason=test")
    site.cluster.run(["scancel", rival])
    site.until(lambda: site.state(job) == "RUNNING")
    assert site.field(job, "NodeList") == other
    at = max(numbers(site.output("alice", job)))
    site.until(lambda: max(numbers(site.output("alice", job))) > at + 20)
    site.cluster.run(["scancel", job])
    site.until_ended(job)
    output = site.output("alice", job)
    assert "goes on from" in output
    counted = numbers(output)
    assert counted == list(range(len(counted)))
    logged = numbers((home / "app.log").read_text())
    assert logged == list(range(len(logged)))
    (line,) = [line for line in site.store.preemptions(job_id=job) if line.beneficiary == rival]
    assert line.confirmed_s is not None
    assert line.signalled_s is not None
    assert line.confirmed_s - line.signalled_s < booted.grace_s


def test_a_program_with_a_connection_is_told_and_goes_on(booted: Site) -> None:
    """It cannot be saved, says why in its output, keeps its whole grace and loses nothing but what it did."""
    site = booted
    with socket.create_server(("0.0.0.0", 0)) as listener:
        host = netns.controller_address(site.cluster.record.subnet or "")
        port = listener.getsockname()[1]
        program = f"exec 3<>/dev/tcp/{host}/{port} || exit 9; echo connected; sleep 600"
        job = site.submit("alice", "--ckpt=transparent", "--queue=research", "--gres=gpu:8",
                          script=f"bash -c '{program}'")  # fmt: skip
        site.until(lambda: "connected" in site.output("alice", job))
        site.cluster.run(["scancel", "--signal=USR1", "--full", job])
        site.until(lambda: "no checkpoint" in site.output("alice", job))
        assert f"is connected to {host}:{port}" in site.output("alice", job)
        assert site.state(job) == "RUNNING"
        site.cluster.run(["scancel", job])
        site.until_ended(job)
