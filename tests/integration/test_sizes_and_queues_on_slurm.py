"""Sizes, queues that exist as soon as a job is in them, and limits of groups, on a real Slurm."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

import pytest

from slurmext.devcluster import ClusterSpec, Devcluster
from tests.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("slurmctld") is None, reason="needs root and Slurm"),
]
RELEASES = ["native", pytest.param("trixie", marks=pytest.mark.slow), pytest.param("forky", marks=pytest.mark.slow)]
POLICY = """\
version: 1
settings: {default_queue: "research/{user}", grace_s: 5, requeue_delay_s: 1}
placement:
  - {group: bob, queue: "teaching/{user}"}
sizes:
  one: {gpus_per_node: 1, cpus_per_gpu: 2, memory_per_gpu: 2G, time: "0:30:00", types: [a100], summary: to try things}
  pair: {nodes: 2, gpus_per_node: 2, tasks_per_node: 2, time: 90}
queues:
  research: {guaranteed: 4, max: 6, dynamic: {max: 5}}
  teaching: {guaranteed: 2, groups: {bob: {max: 2}}, dynamic: {}}
"""


class Site:
    """A cluster of two nodes with 4 GPUs, an h100 and an a100 one, under the policy above."""

    def __init__(self, cluster: Devcluster) -> None:
        self.cluster = cluster

    def slurmext(self, *args: str) -> str:
        return self.cluster.run([sys.executable, "-P", "-m", "slurmext.cli", *args]).stdout

    def sbatch(self, user: str, *options: str, env: dict[str, str] | None = None, check: bool = True):
        argv = ["sbatch", "--parsable", "--output=%j.out", *options, "--wrap=env; sleep 300"]
        return self.cluster.run(argv, user=user, env=env, check=check)

    def submit(self, user: str, *options: str, env: dict[str, str] | None = None) -> str:
        return self.sbatch(user, *options, env=env).stdout.strip()

    def refusal(self, user: str, *options: str) -> str:
        done: subprocess.CompletedProcess[str] = self.sbatch(user, *options, check=False)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def shown(self, job_id: str) -> dict[str, str]:
        """`scontrol show job`; TRES in the spelling of newer releases."""
        text = self.cluster.out("scontrol", "--oneliner", "show", "job", job_id)
        fields = dict(word.split("=", 1) for word in text.split() if "=" in word)
        return {key: value.replace("gres:", "gres/") for key, value in fields.items()}

    def queue_of(self, job_id: str) -> str:
        return self.cluster.out("squeue", "-h", "-j", job_id, "-O", "admin_comment:200").split("queue=")[1].split()[0]

    def column(self, noun: str, columns: str) -> list[str]:
        return self.slurmext(noun, "list", "-nP", "-o", columns).splitlines()

    def until(self, what: Callable[[], Any]) -> Any:
        return until(what, scene=lambda: self.cluster.out("squeue", "-a"), pause_s=0.2)

    def until_running(self, *job_ids: str) -> None:
        self.until(lambda: all(self.shown(job)["JobState"] == "RUNNING" for job in job_ids))


@pytest.fixture(scope="module", params=RELEASES)
def booted(request: pytest.FixtureRequest) -> Iterator[Site]:
    spec = ClusterSpec(
        name=f"size-{request.param}-{os.getpid()}",
        nodes=2,
        gpus=4,
        gpu_types=("h100", "a100"),
        release=request.param,
        users=("alice", "bob"),
    )
    with Devcluster.up(spec) as cluster:
        site = Site(cluster)
        policy = cluster.dir / "policy.yaml"
        policy.write_text(POLICY)
        site.slurmext("policy", "apply", "-i", str(policy))
        table = cluster.layout.slurmext_run / "queues.tsv"
        site.until(lambda: table.exists() and "teaching" in table.read_text())
        yield site


@pytest.fixture
def site(booted: Site) -> Iterator[Site]:
    yield booted
    booted.cluster.cancel_all()


def test_a_size_is_the_whole_request(site: Site) -> None:
    """GPUs of its type, CPUs, memory and time; the job runs with them, on a node of that type."""
    job = site.submit("alice", "--size=one")
    site.until_running(job)
    shown = site.shown(job)
    assert (shown["TresPerNode"], shown["CpusPerTres"], shown["MemPerTres"]) == (
        "gres/gpu:a100:1", "gres/gpu:2", "gres/gpu:2048"
    )  # fmt: skip
    assert (shown["TimeLimit"], shown["NumNodes"], shown["NumCPUs"], shown["NodeList"]) == ("00:30:00", "1", "2", "n2")
    output = site.cluster.home("alice") / f"{job}.out"
    site.until(lambda: output.exists() and "CUDA_VISIBLE_DEVICES=" in output.read_text())
    assert "SLURM_CPUS_ON_NODE=2\n" in output.read_text()


def test_a_size_of_several_nodes_and_tasks(site: Site) -> None:
    """Two tasks on each of two nodes, with 2 GPUs there."""
    job = site.submit("alice", env={"SLURMEXT_SIZE": "pair"})
    site.until_running(job)
    shown = site.shown(job)
    assert (shown["NumNodes"], shown["NumTasks"], shown["TresPerNode"]) == ("2", "4", "gres/gpu:2")
    assert shown["TimeLimit"] == "01:30:00"


def test_what_the_user_asks_for_wins(site: Site) -> None:
    """Time, nodes, GPUs and memory, each by itself."""
    job = site.submit("alice", "--size=pair", "--time=5", "--nodes=1")
    shown = site.shown(job)
    assert (shown["TimeLimit"], shown["TresPerNode"], shown["NumTasks"]) == ("00:05:00", "gres/gpu:2", "2")
    site.until_running(job)
    other = site.submit("alice", "--size=one", "--gpus=2", "--mem=1G", "--cpus-per-task=3")
    shown = site.shown(other)
    assert shown["TresPerJob"] == "gres/gpu:2"
    assert not {"TresPerNode", "MemPerTres", "CpusPerTres"} & shown.keys()
    assert shown["TimeLimit"] == "00:30:00"


@pytest.mark.parametrize("command", ["srun", "salloc"])
def test_interactive_jobs_take_sizes_too(site: Site, command: str) -> None:
    """The allocation is that of the size."""
    done = site.cluster.run(
        [command, "--size=one", "sh", "-c", "scontrol --oneliner show job $SLURM_JOB_ID"], user="alice"
    )
    assert "TimeLimit=00:30:00" in done.stdout
    assert "gpu:a100:1" in done.stdout


def test_an_unknown_size_is_refused_with_those_there_are(site: Site) -> None:
    """The same names as `slurmext size list`."""
    assert "--size=on: no such size; did you mean one? sizes: one (1 GPU), pair (2 x 2 GPUs)" in site.refusal(
        "alice", "--size=on"
    )
    assert site.column("size", "Size,GPUs,Time") == ["one|1|0:30:00", "pair|4|90"]


def test_a_queue_is_there_as_soon_as_a_job_is_in_it(site: Site) -> None:
    """Alice's below research by the default, bob's below teaching by his group; both are listed and their jobs run."""
    jobs = [site.submit("alice", "--gpus=1"), site.submit("bob", "--gpus=1")]
    assert [site.queue_of(job) for job in jobs] == ["research/alice", "teaching/bob"]
    site.until_running(*jobs)
    rows = site.until(lambda: "teaching/bob|1" in (found := site.column("queue", "Queue,Used")) and found)
    assert rows == ["research|1", "research/alice|1", "teaching|1", "teaching/bob|1"]
    for job in jobs:
        site.cluster.run(["scancel", job])
    site.until(lambda: site.column("queue", "Queue") == ["research", "teaching"])


def test_a_user_may_not_make_queues_of_others(site: Site) -> None:
    """His own he may name, another's not, nor one that no rule and no name gives him."""
    assert site.queue_of(site.submit("alice", "--gpus=1", "--queue=research/alice")) == "research/alice"
    assert site.queue_of(site.submit("bob", "--gpus=1", "--queue=research/bob")) == "research/bob"
    for wrong in ("research/bob", "teaching/bob", "research/any"):
        assert f"--queue={wrong}: that queue is not yours" in site.refusal("alice", "--gpus=1", f"--queue={wrong}")


def test_limits_of_dynamic_queues_and_of_groups_hold(site: Site) -> None:
    """Each child's max at submit, the group's over all of teaching while it runs."""
    assert "may never have more than 5" in site.refusal("alice", "--gpus-per-node=3", "--nodes=2")
    first = site.submit("bob", "--gpus=2")
    site.until_running(first)
    second = site.submit("bob", "--gpus=1")
    site.until(lambda: "GROUP_MAX" in site.slurmext("job", "list", "-nP", "-o", "JobID,Reason"))
    said = site.slurmext("job", "explain", second)
    assert "group bob may hold 2 GPUs in queue teaching and holds 2 (bob 2); the job needs 1" in said
