"""Unmodified programs under --ckpt=transparent: saved from outside, moved to another node, and what is refused."""

from __future__ import annotations

import os
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from slurmext.devcluster import ClusterSpec, Devcluster, criu, netns
from slurmext.devcluster.spec import NATIVE
from tests.integration.conftest import Site
from tests.integration.gates import Gate

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
    gate = Gate(site.cluster)
    rival = site.submit("bob", "--queue=prod", "-N2", "--gres=gpu:8", script=gate.wait)
    site.until(lambda: gate.reached(rival))
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


CUDA = """\
#include <stdio.h>
static int said(const char *call, int code) {
    FILE *log = fopen("cuda.log", "a");
    fprintf(log, "%s\\n", call);
    fclose(log);
    return code;
}
int cuCheckpointProcessLock(int pid, void *arguments) { return said("Lock", 0); }
int cuCheckpointProcessCheckpoint(int pid, void *arguments) { return said("Checkpoint", 801); }
int cuCheckpointProcessRestore(int pid, void *arguments) { return said("Restore", 0); }
int cuCheckpointProcessUnlock(int pid, void *arguments) { return said("Unlock", 0); }
"""
"""A driver that finds GPU memory shared with other processes (CUDA_ERROR_NOT_SUPPORTED), as NCCL's is."""
LAST = "; print('on', flush=True); time.sleep(600)"
PEER = "import socket, time; peer = socket.create_connection(('{host}', {port}))" + LAST
HANDED = (
    """\
import socket, time; talk = socket.socket(socket.AF_UNIX); talk.connect('give'); \
_, kept, _, _ = socket.recv_fds(talk, 9, 1); talk.close()"""
    + LAST
)
GPU = "import ctypes, time; cuda = ctypes.CDLL('libcuda.so.1')" + LAST
DEVICE = "import os, time; pty = os.open('/dev/ptmx', os.O_RDWR)" + LAST
BOX = "import time" + LAST
REMEDY = "can save itself: submit it with --ckpt=auto"


def test_a_program_that_cannot_be_saved_is_told_why_and_goes_on(booted: Site) -> None:
    """A connection to outside, GPU memory that processes share, a device, a container, a file of a mount that it does
    not see: each is named with what to do instead, nothing is undone half-way, and the job loses nothing.
    """
    site, home = booted, booted.cluster.home("alice")
    host = netns.controller_address(site.cluster.record.subnet or "")
    with socket.create_server(("0.0.0.0", 0)) as listener, socket.socket(socket.AF_UNIX) as giving:
        giving.bind(str(home / "give"))
        (home / "give").chmod(0o777)
        giving.listen()
        port = listener.getsockname()[1]
        (home / "cuda.c").write_text(CUDA)
        library = home / "libcuda.so.1"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, home / "cuda.c"], check=True)
        programs = {
            PEER.format(host=host, port=port): f"is connected to {host}:{port}",
            GPU: "says 801: it shares GPU memory with other processes (NCCL, MPS, IPC)",
            DEVICE: "has the device /dev/ptmx open",
            HANDED: "it has a file open on a mount that only root can see",
            BOX: "runs in a container of its own (mnt namespace)",
        }
        jobs = dict[str, str]()
        for number, (program, why) in enumerate(programs.items()):
            (home / f"refused{number}.py").write_text(program)
            box = "unshare --user --map-root-user --mount " if program is BOX else ""
            job = site.submit("alice", "--ckpt=transparent", "--queue=research", "--gres=gpu:1",
                              script=f"{box}python3 refused{number}.py", env={"LD_LIBRARY_PATH": str(home)})  # fmt: skip
            jobs[job] = why
        connection, _ = giving.accept()
        with connection, (home / "given").open("w") as file:
            socket.send_fds(connection, [b"here"], [file.fileno()])
        site.until(lambda: all("on\n" in site.output("alice", job) for job in jobs))
        site.cluster.run(["scancel", "--signal=USR1", "--full", *jobs])
        site.until(lambda: all(REMEDY in site.output("alice", job) for job in jobs))
        for job, why in jobs.items():
            assert why in site.output("alice", job)
            assert site.state(job) == "RUNNING"
        assert (home / "cuda.log").read_text().split() == ["Lock", "Checkpoint", "Restore", "Unlock"]
        site.cluster.run(["scancel", *jobs])
        site.until_ended(*jobs)
