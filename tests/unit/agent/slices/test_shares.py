"""MPS shares: a daemon of its own for each, with the share's limits, for its job's user alone, gone with the job."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurmext.adapters.tcp.orders import SetGpuUse, SliceItem
from slurmext.agent.mps.control import started
from slurmext.agent.mps.police import LOOKS, Police
from slurmext.model.slicing import GpuUse
from slurmext.testing.mps import CLIENT, build, set_faults
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the daemons are root's")
ALICE, BOB = 65533, 65534


@pytest.fixture(scope="module", params=["classic", "v3"])
def control(request) -> Iterator[Path]:
    """The program, where other users can run it: pytest closes its own folders."""
    with tempfile.TemporaryDirectory(prefix="sxm", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield build(Path(name), v3=request.param == "v3")


@pytest.fixture
def node(new_node, control):
    node = new_node("h100", "l40s", mps=str(control))
    for gpu in (0, 1):
        node.uses.set(SetGpuUse(gpu=node.gpus.uuid(gpu), use=GpuUse.SHARED))
    yield node
    for share in node.book.shares():
        node.shares.remove(share)
    node.shares.sweep()


def share(node, percent, memory_mib, gpu=0):
    return SliceItem(gpu=node.gpus.uuid(gpu), share_pct=percent, memory_mib=memory_mib)


def end(node, job_id):
    """The epilog; machines that run tests are shared, and processes take their time to end."""
    node.end(job_id)
    for _ in range(10):
        if not node.book.of_job(job_id):
            break
        node.keeper.tend()


def environment(node, job_id, slot=0):
    lines = [line.partition(" ") for line in node.taskfile(job_id).splitlines()[1:]]
    return dict(value.split("=", 1) for number, _, value in lines if number == str(slot))


def client(node, control, job_id, uid, *options, slot=0):
    """A CUDA program of the job."""
    return subprocess.Popen(
        [control.with_name(CLIENT), *options],
        env=environment(node, job_id, slot),
        user=uid,
        stdout=subprocess.PIPE,
        text=True,
    )


def daemons(node):
    """Pids of control daemons and servers under this node's folder."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and f"{node.folder}/mps/".encode() in Path(f"/proc/{name}/environ").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return [pid for pid in found if started(pid)]


def test_a_share_from_reservation_to_epilog(node, control):
    """The job's program gets a server with the share's percentage, and memory up to its limit; all is gone afterwards."""
    assert node.start(1, share(node, 25, 1000), uid=ALICE) is None
    assert environment(node, 1)["CUDA_VISIBLE_DEVICES"] == node.gpus.uuid(0)
    said = client(node, control, 1, ALICE, "--memory", "900").communicate()[0]
    assert "percent 25" in said and "OK memory 900" in said
    assert "OUT_OF_MEMORY" in client(node, control, 1, ALICE, "--memory", "1001").communicate()[0]
    end(node, 1)
    assert daemons(node) == [] and os.listdir(node.folder / "mps") == [] and node.book.shares() == []
    assert node.events.of("slice_freed")[0]["items"] == [
        {"gpu": node.gpus.uuid(0), "share_pct": 25, "memory_mib": 1000}]  # fmt: skip


def test_another_user_cannot_reach_it(node, control):
    """Not with the job's own environment, nor by looking around."""
    node.start(1, share(node, 25, 1000), uid=ALICE)
    pipe = Path(environment(node, 1)["CUDA_MPS_PIPE_DIRECTORY"])
    assert "NO DAEMON" in client(node, control, 1, BOB).communicate()[0]
    for command in (
        ["ls", pipe],
        ["ls", pipe.parent],
        ["ls", pipe.parent.parent],
        ["cat", node.folder / "n1.slices/1"],
    ):
        assert subprocess.run(command, user=BOB, capture_output=True, check=False).returncode != 0
    own = subprocess.run(["touch", pipe / "x"], user=ALICE, capture_output=True, check=False)
    assert own.returncode != 0, "what root's daemon opens there must not be the user's to swap"
    assert subprocess.run([control], input="quit\n", text=True, env=environment(node, 1), user=ALICE,
                          capture_output=True, check=False).stdout.startswith("Permission denied")  # fmt: skip


def test_shares_of_one_gpu_are_apart(node, control):
    """Two jobs and two shares of one job: four daemons; one goes, the others stay."""
    node.start(1, share(node, 25, 1000), uid=ALICE)
    node.start(2, share(node, 25, 1000), uid=BOB)
    node.start(3, share(node, 20, 1000), share(node, 10, 500), uid=BOB)
    assert len(environment(node, 3, 0)) == len(environment(node, 3, 1))
    assert environment(node, 3, 0)["CUDA_MPS_PIPE_DIRECTORY"] != environment(node, 3, 1)["CUDA_MPS_PIPE_DIRECTORY"]
    running = client(node, control, 2, BOB, "--seconds", "30")
    running.stdout.readline()
    end(node, 1)
    assert "percent 10" in client(node, control, 3, BOB, slot=1).communicate()[0]
    assert running.poll() is None
    running.kill()
    running.wait()


@pytest.mark.parametrize("items", [[(60, 1000), (41, 1000)], [(10, 50_000), (10, 40_000)]])
def test_more_than_a_gpu_has(node, items):
    """Shares beyond 100 percent or the card's memory are refused."""
    first, second = (share(node, *item) for item in items)
    assert node.reserve(1, first) == "slice_reserved"
    assert [node.reserve(2, second) for _ in range(2)] == ["", "slice_missed"]
    assert [node.reserve(3, first, second) for _ in range(2)] == ["", "slice_missed"]


@pytest.mark.parametrize("fault", ["start fail", "start hang"])
def test_a_daemon_that_does_not_start(node, fault, monkeypatch):
    """The job is missed with the program's words, and nothing is left."""
    monkeypatch.setattr("slurmext.agent.mps.control.COMMAND_S", 0.5)
    set_faults(node.gpus.path, fault)
    why = node.start(1, share(node, 25, 1000), uid=ALICE)
    assert ("Failed to start" if fault == "start fail" else "did not answer") in why
    set_faults(node.gpus.path)
    node.keeper.tend()
    assert daemons(node) == [] and os.listdir(node.folder / "mps") == []


def test_a_daemon_that_does_not_quit(node, control):
    """It is ended, with its server, and nobody else's."""
    node.start(1, share(node, 25, 1000), uid=ALICE)
    node.start(2, share(node, 25, 1000), uid=BOB)
    client(node, control, 1, ALICE).communicate()
    other = set(daemons(node))
    set_faults(node.gpus.path, "quit hang")
    end(node, 1)
    left = daemons(node)
    assert left and set(left) < other
    assert "percent 25" in client(node, control, 2, BOB).communicate()[0]
    set_faults(node.gpus.path)


def test_a_client_that_crashed(node, control):
    """A client killed in its middle takes the server with it: its share, and only that, begins anew; the epilog ends."""
    node.start(1, share(node, 25, 1000), uid=ALICE)
    node.start(2, share(node, 25, 1000), uid=BOB)
    other = node.book.shares()[1]
    crashing = client(node, control, 1, ALICE, "--in-flight", "--seconds", "30")
    crashing.stdout.readline()
    crashing.send_signal(signal.SIGKILL)
    crashing.wait()
    if not node.shares._control.speaks_v3():
        until(lambda: "FAULT" in client(node, control, 1, ALICE).communicate()[0])
        assert len(node.shares.mend()) == 1
        assert "percent 25" in client(node, control, 1, ALICE).communicate()[0]
    assert node.book.shares()[1] == other
    end(node, 1)
    assert len(node.book.shares()) == 1


def test_a_daemon_that_died(node, control):
    """It is started again for a job that goes on, in the same place."""
    node.start(1, share(node, 25, 1000), uid=ALICE)
    os.kill(node.book.shares()[0].pid, signal.SIGKILL)
    until(lambda: len(node.shares.mend()) == 1)
    assert node.shares.mend() == []
    assert "percent 25" in client(node, control, 1, ALICE).communicate()[0]
    end(node, 1)
    assert daemons(node) == []


def test_daemons_outlive_the_agent(node, control):
    """A restarted agent knows them; those of jobs that are over, and those that nobody knows, are ended."""
    node.start(1, share(node, 25, 1000), uid=ALICE)
    node.start(2, share(node, 25, 1000), uid=BOB)
    node.restart()
    assert "percent 25" in client(node, control, 1, ALICE).communicate()[0]
    node.in_slurm, node.alive = set(), {2}
    node.now_s += 1000
    node.restart()
    node.settle()
    assert [each.uid for each in node.book.shares()] == [BOB]
    (node.folder / "slices.jsonl").unlink()
    node.restart()
    assert daemons(node) == [] and os.listdir(node.folder / "mps") == []


def test_memory_of_all_processes_of_a_job(node, control):
    """Two processes below the limit, together above it: warned, then the larger is ended; other jobs' never."""
    node.start(1, share(node, 25, 1000), uid=ALICE)
    node.start(2, share(node, 25, 1000), uid=BOB)
    small, large, other = (subprocess.Popen(["sleep", "60"]) for _ in range(3))
    jobs = {small.pid: 1, large.pid: 1, other.pid: 2}
    for process, memory_mib in ((small, 500), (large, 700), (other, 990)):
        node.gpus.hold(0, process.pid, memory_mib=memory_mib)
    police = Police(node.book, node.shares, node.driver, node.events, job_of=jobs.get)
    police.look()
    assert [event["action"] for event in node.events.of("slice_over")] == ["told"]
    assert [use.used_mib for use in police.look()] == [1200, 990]
    for _ in range(LOOKS):
        police.look()
    assert large.wait(5) == -signal.SIGKILL
    for _ in range(LOOKS + 1):
        police.look()
    assert small.poll() is None and other.poll() is None
    assert [(event["action"], event.get("pid")) for event in node.events.of("slice_over")] == [
        ("told", None), ("ended", large.pid)]  # fmt: skip
    for process in (small, other):
        process.kill()
        process.wait()


def test_a_site_that_only_warns(node):
    """Nobody is ended."""
    node.start(1, share(node, 25, 1000), uid=ALICE)
    process = subprocess.Popen(["sleep", "60"])
    node.gpus.hold(0, process.pid, memory_mib=5000)
    police = Police(node.book, node.shares, node.driver, node.events, ends=False, job_of={process.pid: 1}.get)
    for _ in range(LOOKS + 3):
        police.look()
    assert process.poll() is None and len(node.events.of("slice_over")) == 1
    process.kill()
    process.wait()
