"""Slices on a real Slurm, seen from the nodes: what happens when a hook, an agent or the driver fails in the middle."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slurmext.devcluster import ClusterSpec, Devcluster
from slurmext.testing.nvml import DIES_AFTER, IN_USE
from tests.integration.gates import Gate
from tests.waiting import until

pytestmark = pytest.mark.cluster

PATIENCE_S = 60
POLICY = "version: 1\nsettings: {default_queue: q, requeue_delay_s: 1}\nqueues: {q: {guaranteed: 8}}\nslices: {}\n"
TELL = "echo $SLURM_LOCALID $CUDA_VISIBLE_DEVICES $SLURM_RESTART_COUNT"


class Sliced:
    """A cluster whose GPUs may be cut and shared."""

    def __init__(self, cluster: Devcluster) -> None:
        self.cluster = cluster
        policy = cluster.dir / "policy.yaml"
        policy.write_text(POLICY)
        cluster.run([sys.executable, "-P", "-m", "slurmext.cli", "policy", "apply", "-i", str(policy)])
        self.until((cluster.layout.slurmext_run / "slices.tsv").exists)

    def submit(self, user: str, *options: str, script: str = f"{TELL}; sleep 2") -> str:
        argv = ["sbatch", "--parsable", "--mem=10", "--output=%j.out", "--open-mode=append", *options]
        return self.cluster.run([*argv, f"--wrap={script}"], user=user).stdout.strip()

    def until(self, what: Callable[[], Any]) -> Any:
        return until(what, PATIENCE_S, scene=self.look, pause_s=0.1)

    def look(self) -> str:
        """What there is to see when something takes too long."""
        log = (self.cluster.layout.log / "slurmextd.out").read_text(errors="replace").splitlines()[-15:]
        agents = [line for node in self.cluster.node_names
                  for line in (self.cluster.layout.log / f"agent@{node}.out").read_text().splitlines()[-8:]]  # fmt: skip
        return "\n".join([self.cluster.out("squeue", "-a", "-o", "%i %j %T %r %N"), *log, *agents])

    def state(self, job: str) -> str:
        told = self.cluster.out("scontrol", "--oneliner", "show", "job", job)
        found = re.search(r"JobState=(\w+)", told)
        return found[1] if found else "gone"

    def ended(self, *jobs: str) -> None:
        self.until(lambda: all(self.state(job) == "COMPLETED" for job in jobs))

    def output(self, user: str, job: str) -> str:
        path = self.cluster.home(user) / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def slices(self, node: str) -> list[tuple[int, str, int]]:
        return [(one.gpu, one.profile, one.start) for one in self.cluster.gpus(node).slices()]

    def drained(self) -> bool:
        return "drain" in self.cluster.out("sinfo", "-h", "-o", "%T")

    def files(self, node: str) -> Path:
        return self.cluster.layout.slurmext_run / f"agent-{node}.slices"

    def mended(self, agents: bool = True) -> None:
        for node in self.cluster.node_names:
            self.cluster.gpus(node).clear_calls()
            self.cluster.gpus(node).set_delay(0)
        for name, pid in self.cluster.status().items():
            if pid is None and agents:
                self.cluster.start(name)


@pytest.fixture(scope="module")
def booted() -> Iterator[Sliced]:
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd runs jobs as their users")
    # Nothing is kept warm: what is left at the end of a test was left behind.
    spec = ClusterSpec(
        name=f"test-sl-{os.getpid()}", nodes=2, gpus=2, cpus=12, users=("alice", "bob"), conf={"KillWait": "4", "PrologEpilogTimeout": "10", "BatchStartTimeout": "5"},
        site={"daemon": {"interval_s": 3}, "agent": {"slices": {"warm_s": 0}}},
    )  # fmt: skip
    with Devcluster.up(spec) as cluster:
        yield Sliced(cluster)


@pytest.fixture
def sliced(booted: Sliced) -> Iterator[Sliced]:
    """After each test nothing is left of its slices, and no node is drained."""
    yield booted
    booted.mended()
    assert not booted.drained()
    for job in booted.cluster.out("squeue", "-h", "-a", "-o", "%i %j").splitlines():
        number, name = job.split()
        if not name.startswith("slurmext-slices"):
            booted.cluster.run(["scancel", number], check=False)
    for node in booted.cluster.node_names:
        booted.until(lambda node=node: booted.slices(node) == [])
        booted.until(lambda node=node: list(booted.files(node).iterdir()) == [])
        booted.until(lambda node=node: list(booted.files(node).with_suffix(".mps").glob("*")) == [])


def test_each_task_its_own_slice_on_each_node(sliced):
    """Two nodes, two tasks on each, four slices; no two tasks see the same one."""
    script = f"srun sh -c '{TELL}'"
    job = sliced.submit("alice", "--gpu-slice=1g.10gb", "-N2", "--ntasks-per-node=2", script=script)
    sliced.ended(job)
    lines = sorted(line.split() for line in sliced.output("alice", job).splitlines())
    assert [line[0] for line in lines] == ["0", "0", "1", "1"]
    assert len({line[1] for line in lines}) == 4
    assert all(line[1].startswith("MIG-") for line in lines)


def test_a_miss_goes_back_to_the_queue(sliced):
    """The driver refuses to make the slice: the node is not drained, nobody else is touched, the job is requeued and
    runs when the driver agrees again.
    """
    gate = Gate(sliced.cluster)
    other = sliced.submit("bob", "--gpu-slice=3g.40gb", "-w", "n1", script=f"{gate.pass_by}; sleep 300")
    sliced.until(lambda: gate.reached(other))  # its slice is whole
    before = sliced.cluster.gpus("n1").slices()
    for node in sliced.cluster.node_names:
        sliced.cluster.gpus(node).on_call("nvmlDeviceCreateGpuInstance*", result=IN_USE)
    job = sliced.submit("alice", "--gpu-slice=1g.10gb")
    told = lambda: sliced.cluster.out("scontrol", "--oneliner", "show", "job", job)  # noqa: E731
    sliced.until(lambda: "Restarts=1" in told())
    assert not sliced.drained()
    assert [one for one in sliced.cluster.gpus("n1").slices() if one in before] == before
    assert sliced.state(other) == "RUNNING"
    assert "MIG-" not in sliced.output("alice", job)
    sliced.mended()
    sliced.ended(job)
    assert "MIG-" in sliced.output("alice", job)


@pytest.mark.parametrize(
    "call",
    [pytest.param("nvmlDeviceCreateGpuInstance*", marks=pytest.mark.slow), "nvmlGpuInstanceCreateComputeInstance"],
)
def test_an_agent_dies_in_a_prolog(sliced, call):
    """Kill -9 of the agent in the middle of making a slice: the job waits and is requeued, the next agent leaves nothing
    of the first attempt, and the job gets its slice.
    """
    for node in sliced.cluster.node_names:
        sliced.cluster.gpus(node).on_call(call, death=DIES_AFTER, times=1)
    job = sliced.submit("alice", "--gpu-slice=1g.10gb")
    dead = lambda: [node for node in sliced.cluster.node_names if sliced.cluster.pid(f"agent@{node}") is None]  # noqa: E731
    (node, *_) = sliced.until(dead)
    assert len(sliced.slices(node)) == 1
    sliced.mended()
    sliced.ended(job)
    assert "MIG-" in sliced.output("alice", job)
    assert not sliced.drained()


@pytest.mark.parametrize("who", [pytest.param("slurmd", marks=pytest.mark.slow), "slurmextd"])
def test_slurm_or_the_controller_dies_in_a_prolog(sliced, who):
    """Kill -9 of slurmd or slurmextd while a slice is made, and a few seconds without: whatever becomes of this run, the
    job ends well, and nothing is left of it.
    """
    for node in sliced.cluster.node_names:
        sliced.cluster.gpus(node).on_call("nvmlGpuInstanceCreateComputeInstance", delay_ms=1500)
    job = sliced.submit("alice", "--gpu-slice=1g.10gb")
    node = sliced.until(lambda: next((node for node in sliced.cluster.node_names if sliced.slices(node)), None))
    sliced.cluster.kill("slurmextd" if who == "slurmextd" else f"slurmd@{node}")
    time.sleep(3)
    sliced.mended()
    for _ in range(12 if who == "slurmd" else 0):
        # Slurm itself sees that the run is lost when the node registers again and the prolog's time is over.
        time.sleep(10)
        if sliced.state(job) != "RUNNING":
            break
        sliced.cluster.run(["scontrol", "reconfigure"])
    sliced.ended(job)
    assert "MIG-" in sliced.output("alice", job)


def test_an_agent_dies_in_an_epilog(sliced):
    """Kill -9 of the agent between the two steps of destroying a slice: the next one finishes, and says so."""
    gate = Gate(sliced.cluster)
    job = sliced.submit("alice", "--gpu-slice=1g.10gb", script=f"{TELL}; {gate.wait}")
    node = sliced.until(lambda: next((node for node in sliced.cluster.node_names if sliced.slices(node)), None))
    sliced.until(lambda: "MIG-" in sliced.output("alice", job))
    sliced.cluster.gpus(node).on_call("nvmlComputeInstanceDestroy", death=DIES_AFTER, times=1)
    gate.open()
    sliced.until(lambda: sliced.cluster.pid(f"agent@{node}") is None)
    assert not sliced.cluster.gpus(node).slices()[0].computes
    sliced.mended()
    sliced.ended(job)


def test_a_hook_dies(sliced):
    """Kill -9 of the prolog's client: the agent goes on making the slice, the job's tasks wait for it and start."""
    for node in sliced.cluster.node_names:
        sliced.cluster.gpus(node).on_call("nvmlGpuInstanceCreateComputeInstance", delay_ms=3000)
    job = sliced.submit("alice", "--gpu-slice=1g.10gb")

    def clients() -> list[int]:
        found = []
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if b"client.py\0prolog" in line and str(sliced.cluster.layout.root).encode() in line:
                found.append(int(name))
        return found

    for pid in sliced.until(clients):
        os.kill(pid, 9)
    sliced.ended(job)
    assert "MIG-" in sliced.output("alice", job)
    assert not sliced.drained()


def test_a_restarted_agent_frees_what_ended_without_it(sliced):
    """Jobs end, slurmd runs their epilogs, and no agent hears them."""
    gate = Gate(sliced.cluster)
    job = sliced.submit("alice", "--gpu-slice=1g.10gb", script=gate.wait)
    share = sliced.submit("bob", "--gpu-share=25%,mem=10G", script=gate.wait)
    sliced.until(lambda: gate.reached(job, share))
    for node in sliced.cluster.node_names:
        sliced.cluster.kill(f"agent@{node}")
    gate.open()
    sliced.ended(job, share)
    for node in sliced.cluster.node_names:
        sliced.cluster.start(f"agent@{node}")


@pytest.mark.slow
def test_a_second_user_has_nothing_of_it(sliced):
    """Bob, on the same node, with Alice's environment: neither her slice's device nodes nor her share's pipes."""
    script = "env | grep -E 'CUDA|SLURMEXT_SLICE' >ours; touch ready; sleep 60"
    slice_job = sliced.submit("alice", "--gpu-slice=1g.10gb", "-w", "n1", script=script)
    share = sliced.submit("alice", "--gpu-share=25%,mem=1G", "-w", "n1", script="env >shared; sleep 60")
    sliced.until(lambda: sliced.state(slice_job) == sliced.state(share) == "RUNNING")
    sliced.until((sliced.cluster.home("alice") / "ready").exists)
    (one,) = sliced.cluster.gpus("n1").slices()
    root = sliced.cluster.gpus("n1").root
    nodes = sorted((root / "dev/nvidia-caps").glob("nvidia-cap*"))
    own = [path for path in nodes if path.stat().st_uid == sliced.cluster.home("alice").stat().st_uid]
    assert len(own) == 2, one
    pipe = sliced.until(lambda: re.search(r"CUDA_MPS_PIPE_DIRECTORY=(.*)", _text(sliced, "shared")))[1]
    tries = "; ".join([*(f"head -c0 {path} && echo opened" for path in own), f"ls {pipe} && echo listed",
                       f"cat {sliced.files('n1')}/* && echo read", "true"])  # fmt: skip
    bob = sliced.submit("bob", "-w", "n1", script=tries)
    sliced.ended(bob)
    said = sliced.output("bob", bob)
    assert said.count("Permission denied") >= 5
    assert not {"opened", "listed", "read"} & set(said.split())
    mine = sliced.submit("alice", "-w", "n1", script=f"ls {pipe} && echo listed")
    sliced.ended(mine)
    assert "listed" in sliced.output("alice", mine)


def _text(sliced: Sliced, name: str) -> str:
    path = sliced.cluster.home("alice") / name
    return path.read_text() if path.exists() else ""


def test_a_requeued_job(sliced):
    """`scontrol requeue` of a running job with a slice: it runs again, with a slice that was reserved for that run."""
    script = f"{TELL}; sleep $((6 - 5 * ${{SLURM_RESTART_COUNT:-0}}))"
    job = sliced.submit("alice", "--gpu-slice=1g.10gb", script=script)
    sliced.until(lambda: "MIG-" in sliced.output("alice", job))
    sliced.cluster.run(["scontrol", "requeue", job])
    sliced.ended(job)
    lines = [line.split() for line in sliced.output("alice", job).splitlines() if "MIG-" in line]
    assert len(lines) == 2 and lines[0][1] != lines[1][1] and lines[1][2] == "1"
