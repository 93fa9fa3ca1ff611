"""Slices on a real Slurm when agents stay away and placeholders are ended: nobody runs without, nobody gets in."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Site

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SAYS = 'echo "slice $CUDA_VISIBLE_DEVICES as $SLURMEXT_GPU_SLICE on $SLURMD_NODENAME"'
HELD = "slurmext-slices-"


def placeholders(site: Site) -> list[str]:
    lines = site.cluster.out("squeue", "--noheader", "--states=RUNNING", "--format=%i %j").splitlines()
    return [line.split()[0] for line in lines if HELD in line]


def test_a_gpu_with_slices_whose_placeholder_somebody_ends_is_nobody_elses(sliced: Site) -> None:
    """With every GPU in use and one more job waiting: the slice job goes on alone, and that job waits for its end."""
    part = sliced.submit("bob", "--queue=prod", "--gpu-slice=3g.40gb", "--mem=10", script=f"{SAYS}; sleep 9")
    sliced.until_running(part)
    whole = [sliced.submit("alice", "--gres=gpu:1", "--mem=10", "--no-preempt", script="sleep 60") for _ in range(4)]
    whole += [sliced.submit("bob", "--queue=prod", "--gres=gpu:1", "--mem=10", script="sleep 60") for _ in range(4)]
    sliced.until(lambda: sum(sliced.state(job) == "RUNNING" for job in whole) == 7)
    (before,) = placeholders(sliced)
    sliced.cluster.run(["scancel", before])
    sliced.until(lambda: [job for job in placeholders(sliced) if job != before])
    (one,) = sliced.store.slices()
    sliced.until(lambda: [hold.gpu for hold in sliced.store.holds()] == [one.gpu])
    assert sliced.state(part) == "RUNNING"
    assert sum(sliced.state(job) == "RUNNING" for job in whole) == 7
    sliced.until_ended(part)
    assert sliced.state(part) == "COMPLETED"
    sliced.until_running(*whole)


def test_a_job_of_a_size_says_what_it_got(sliced: Site) -> None:
    """Its environment has what its size stands for, as if its user had asked for that."""
    path = sliced.cluster.dir / "sizes.yaml"
    policy = (sliced.cluster.dir / "policy.yaml").read_text()
    path.write_text(f"{policy}sizes: {{notebook: {{gpu_slice: 1g.10gb}}}}\n")
    sliced.slurmext("policy", "apply", "-i", str(path))
    try:
        queues = sliced.cluster.layout.slurmext_run / "queues.tsv"
        sliced.until(lambda: "notebook" in queues.read_text())
        job = sliced.submit("alice", "--size=notebook", "--mem=10", script=SAYS)
        sliced.until_ended(job)
        assert "slice MIG-" in sliced.output("alice", job)
        assert "as 1g.10gb on" in sliced.output("alice", job)
        # srun's, and a step within what salloc has: there is no script whose environment job_submit could add to
        wants = ["--size=notebook", "--mem=10"]
        said = sliced.cluster.run(["srun", *wants, "sh", "-c", SAYS], user="alice").stdout
        said += sliced.cluster.run(["salloc", *wants, "srun", "--mpi=none", "sh", "-c", SAYS], user="bob").stdout
        assert [line.split()[3] for line in said.splitlines() if line.startswith("slice MIG-")] == ["1g.10gb"] * 2
    finally:
        sliced.slurmext("policy", "apply", "-i", str(sliced.cluster.dir / "policy.yaml"))


def test_a_job_whose_agent_dies_as_it_starts_and_stays_away_runs_elsewhere(sliced: Site) -> None:
    """It never runs without its slice and does not wait for ever; the agent that comes back clears what it kept."""
    for node in sliced.cluster.node_names:
        sliced.cluster.gpus(node).on_call("nvmlDeviceCreateGpuInstance*", delay_ms=4000)
    job = sliced.submit("alice", "--gpu-slice=3g.40gb", "--mem=10", script=f"{SAYS}; sleep 2")
    sliced.until_running(job)
    (one,) = sliced.store.slices()
    sliced.cluster.kill(f"agent@{one.node}", signal.SIGKILL)
    for node in sliced.cluster.node_names:
        sliced.cluster.gpus(node).clear_calls()
    sliced.until(lambda: sliced.field(job, "Restarts") == "1", 100)
    assert "slice MIG" not in sliced.output("alice", job)
    sliced.until(lambda: sliced.state(job) == "COMPLETED", 60)
    (line,) = [line for line in sliced.output("alice", job).splitlines() if line.startswith("slice MIG-")]
    assert not line.endswith(one.node)
    sliced.cluster.start(f"agent@{one.node}")
    again = sliced.submit("bob", "--gpu-slice=7g.80gb", f"--nodelist={one.node}", "--mem=10", script=SAYS)
    sliced.until(lambda: sliced.state(again) == "COMPLETED", 90)
