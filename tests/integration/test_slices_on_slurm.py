"""Parts of GPUs on a real Slurm: from sbatch to the freed slice, and everything that may go wrong in between."""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from slurmext.demo.storm import Storm, mixed
from slurmext.model.slice_state import SliceState
from slurmext.testing.nvml import INSUFFICIENT_RESOURCES
from tests.integration.gates import Gate
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Site

    from slurmext.devcluster import Devcluster

pytestmark = pytest.mark.cluster

SLICED_POLICY = """\
version: 1
settings: {default_queue: research}
queues:
  research: {guaranteed: 4}
slices: {empty_for_s: 4, keep_for_s: 1}
"""
SAYS = 'echo "slice $CUDA_VISIBLE_DEVICES task $SLURM_PROCID on $SLURMD_NODENAME"'

# The interpreter may stand where only root can read: load everything first, then become the user.
AS_USER = """
import importlib, os, pwd, sys
for name in ("slurmext.cli.slice", "slurmext.adapters.query_client"):
    importlib.import_module(name)
from slurmext.cli.main import cli
from slurmext.config.site import load_site
load_site()
user = pwd.getpwnam(sys.argv[1])
os.initgroups(user.pw_name, user.pw_gid)
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
cli(sys.argv[2:], prog_name="slurmext")
"""


def drained(sliced: Site) -> str:
    return sliced.cluster.out("sinfo", "--noheader", "--states=drain,down,fail", "--format=%N %E")


def uuids(sliced: Site, user: str, job: str) -> list[str]:
    """What its tasks saw."""
    return [line.split()[1] for line in sliced.output(user, job).splitlines() if line.startswith("slice ")]


def has_ended(sliced: Site, job: str, state: str = "COMPLETED", timeout_s: float = 60) -> None:
    sliced.until(lambda: sliced.state(job) in {"COMPLETED", "FAILED", "CANCELLED"}, timeout_s)
    assert sliced.state(job) == state, sliced.slurmext("job", "explain", job)


def test_a_storm_of_mixed_jobs_gets_its_slices_and_leaves_nothing(sliced: Site) -> None:
    """200 jobs of all kinds by two users: each on its own legal slice; then cards, books and nodes are as before."""
    with Storm(sliced.cluster, mixed(160, 40, seed=11, users=("alice", "bob"), longest_s=1.5)) as storm:
        storm.submit()
        assert storm.wait(240), sliced.slurmext("slice", "map")
        assert storm.wait_clean(60), sliced.slurmext("slice", "map", "--all")
        verdict = storm.judge()
    assert verdict.good, verdict.first
    assert verdict.runs == 200
    misses = sliced.store.slices(active=False, states=[SliceState.MISSED])
    assert not [miss.why for miss in misses if "did not start" not in miss.why]


def test_what_nobody_could_ever_get_is_refused_with_what_there_is(sliced: Site) -> None:
    """One line at sbatch that names the request, why not and what exists."""
    for options, said in (
        (["--gpu-slice=1g.99gb"], "no GPU here has the profile 1g.99gb; there are h100: 1g.10gb"),
        (["--gpu-slice=3g.40gb:9"], "no node can hold more than 8"),
        (["--gpu-slice=1g.10gb", "--gres=gpu:1"], "the job asks for whole GPUs as well (1)"),
        (["--gpu-share=0%,mem=10G"], "must be a percentage from 1% to 100%"),
        (["--gpu-share=101%,mem=10G"], "must be a percentage from 1% to 100%"),
        (["--gpu-share=10%,mem=100G"], "the largest (h100) has"),
        (["--gpu-mem=1T"], "no GPU here has so much memory"),
        (["--gpu-slice=1g.10gb", "--gpu-mem=1G"], "one of them says it all"),
        (["--gpu-slice=1g.10gb", "-N3"], "asks for 3 nodes, and only 2 nodes here can hold that"),
        (["--gpu-mem=10G", "-n", "29"], "wants 29 of them on a node and no node can hold more than 28"),
        (["--gpu-slice=1g.10gb", "--gpu-types=a100"], "no GPU here is of that type; there are h100"),
        (["--gpu-slice=1g.10gb", "--mem=10T"], "Memory specification can not be satisfied: the job asks for 10240 GiB"),
    ):
        assert said in sliced.refused("alice", *options)


def test_tasks_nodes_and_arrays_have_slices_of_their_own(sliced: Site) -> None:
    """Each task of a job, on each node, and each task of an array sees another slice."""
    tasks = sliced.submit("alice", "--gpu-slice=1g.10gb", "--ntasks=3", "--nodes=1", "--mem=10",
                          script=f"srun --mpi=none --mem=0 sh -c '{SAYS}; sleep 2'")  # fmt: skip
    nodes = sliced.submit("bob", "--gpu-slice=2g.20gb:2", "--nodes=2", "--ntasks-per-node=2", "--mem=10",
                          script=f"srun --mpi=none --mem=0 sh -c '{SAYS}; sleep 2'")  # fmt: skip
    gate = Gate(sliced.cluster)  # one that has ended leaves its slice to the next
    array = sliced.submit("alice", "--gpu-slice=1g.20gb", "--array=1-4", "--mem=10", "--output=array_%a.out",
                          script=f"{SAYS}; {gate.wait}")  # fmt: skip
    files = [sliced.cluster.home("alice") / f"array_{number}.out" for number in range(1, 5)]
    sliced.until(lambda: all(file.exists() and "slice" in file.read_text() for file in files))
    gate.open()
    has_ended(sliced, tasks)
    has_ended(sliced, nodes)
    sliced.until(lambda: not sliced.states())
    assert len(set(uuids(sliced, "alice", tasks))) == 3
    seen = sliced.output("bob", nodes)
    assert len(set(uuids(sliced, "bob", nodes))) == 4
    assert {line.rpartition(" ")[2] for line in seen.splitlines() if line.startswith("slice")} == {"n1", "n2"}
    ours = [file.read_text().split()[1] for file in files]
    assert len(set(ours)) == 4
    assert all(uuid.startswith("MIG-") for uuid in ours)
    assert array
    assert drained(sliced) == ""


def test_a_gpu_goes_from_whole_to_cut_use_and_back_without_draining(sliced: Site) -> None:
    """Whole-GPU jobs and slices never share a GPU: each waits for the other, and the node stays up."""
    first, second = Gate(sliced.cluster), Gate(sliced.cluster)
    whole = sliced.submit("alice", "--gres=gpu:4", "--nodes=2", "--mem=10", script=first.wait)
    sliced.until_running(whole)
    part = sliced.submit("bob", "--queue=prod", "--gpu-slice=1g.10gb", "--mem=10", script=f"{SAYS}; {second.wait}")
    sliced.until(lambda: sliced.reason(part))
    assert sliced.state(part) == "PENDING"
    first.open()
    has_ended(sliced, whole)
    sliced.until_running(part)
    again = sliced.submit("alice", "--gres=gpu:4", "--nodes=2", "--mem=10", script="true")
    sliced.until_known(again)
    assert sliced.state(again) == "PENDING"
    second.open()
    has_ended(sliced, part)
    has_ended(sliced, again)
    assert drained(sliced) == ""


def test_a_slice_that_cannot_be_made_sends_its_job_back_and_drains_nothing(sliced: Site) -> None:
    """The job is held with the reason, its neighbour goes on, and it runs when the driver does its work again."""
    neighbour = sliced.submit("bob", "--gpu-slice=1g.10gb", "--mem=10", script=f"{SAYS}; sleep 12")
    sliced.until(lambda: uuids(sliced, "bob", neighbour))  # its prolog needs the driver
    for node in sliced.cluster.node_names:
        sliced.cluster.gpus(node).on_call("nvmlDeviceCreateGpuInstance*", result=INSUFFICIENT_RESOURCES)
    job = sliced.submit("alice", "--gpu-slice=3g.40gb", "--mem=10", script=SAYS)
    sliced.until(lambda: sliced.reason(job) == "SLICE_MISSED")
    assert uuids(sliced, "alice", job) == []
    explained = sliced.slurmext("job", "explain", job)
    assert "could not be made" in explained
    for node in sliced.cluster.node_names:
        sliced.cluster.gpus(node).clear_calls()
    has_ended(sliced, job, timeout_s=90)
    assert len(uuids(sliced, "alice", job)) == 1
    has_ended(sliced, neighbour)
    assert len(uuids(sliced, "bob", neighbour)) == 1
    assert drained(sliced) == ""


@pytest.mark.parametrize(
    "victim", ["slurmextd", *(pytest.param(who, marks=pytest.mark.slow) for who in ("agent@n1", "slurmd@n1"))]
)
def test_killed_in_the_middle_of_slices_everything_is_put_right(sliced: Site, victim: str) -> None:
    """Jobs that run go on, those that wait still start, and no slice, placeholder or reservation is left."""
    jobs = [
        sliced.submit(user, "--gpu-slice=1g.10gb", "--mem=10", "--requeue", script=f"{SAYS}; sleep {seconds}")
        for user in ("alice", "bob")
        for seconds in (9, 7, 6, 8)
    ]
    if victim.startswith("slurmd"):
        # What is being launched when slurmd dies Slurm itself misses only minutes later.
        sliced.until(lambda: all(uuids(sliced, "alice", job) or uuids(sliced, "bob", job) for job in jobs))
    else:
        sliced.until(lambda: any(sliced.state(job) == "RUNNING" for job in jobs))
    sliced.cluster.kill(victim, signal.SIGKILL)
    jobs += [sliced.submit("alice", "--gpu-slice=2g.20gb", "--mem=10", script="sleep 1") for _ in range(3)]
    sliced.cluster.start(victim)
    for job in jobs:
        has_ended(sliced, job, timeout_s=120)
    sliced.until(lambda: not sliced.store.slices(), 60)
    lived = [one for one in sliced.store.slices(active=False) if one.state is SliceState.FREED]
    assert {one.job.job_id for one in lived} >= set(jobs)
    assert drained(sliced) == ""


def test_users_see_their_own_slices_and_that_others_are_taken(sliced: Site) -> None:
    """The map shows everybody what is free; whose the rest is, only to root and the owner."""
    mine = sliced.submit("alice", "--gpu-slice=1g.10gb", "--mem=10", script="sleep 60")
    other = sliced.submit("bob", "--gpu-share=25%,mem=10G", "--mem=10", script="sleep 60")
    sliced.until_running(mine, other)
    sliced.until(lambda: len(json.loads(sliced.slurmext("slice", "list", "--json"))) == 2)

    listed = json.loads(sliced.slurmext("slice", "list", "--json"))
    assert {row["job_id"] for row in listed} == {mine, other}
    drawn = json.loads(sliced.slurmext("slice", "map", "--json"))
    parts = [part for card in drawn["gpus"] for part in card["parts"]]
    assert {(part["job"], part["user"]) for part in parts if part["job"]} == {(mine, "alice"), (other, "bob")}
    assert drawn["fragmentation"]["gpus"] == 2
    argv = [sys.executable, "-P", "-c", AS_USER, "alice", "slice", "map", "--json"]
    theirs = json.loads(sliced.cluster.run(argv).stdout)
    hers = [part for card in theirs["gpus"] for part in card["parts"] if part["state"] != "warm"]
    assert {part["job"] for part in hers} == {mine, None}
    assert {part["state"] for part in hers if part["job"] is None} == {"taken"}


@pytest.mark.slow
def test_slices_count_against_the_quota_of_their_queue(sliced: Site) -> None:
    """A queue that may have one GPU has seven sevenths of it in slices, no eighth, and no whole GPU meanwhile."""
    jobs = [sliced.submit("alice", "--queue=small", "--gpu-slice=1g.10gb", "--mem=10", script="sleep 9")
            for _ in range(8)]  # fmt: skip
    sliced.until(lambda: sum(sliced.state(job) == "RUNNING" for job in jobs) >= 6)
    whole = sliced.submit("alice", "--queue=small", "--gres=gpu:1", "--mem=10", script="true")
    sliced.until(lambda: sliced.reason(whole) == "QUEUE_MAX")
    waiting = [job for job in jobs if sliced.state(job) == "PENDING"]
    assert waiting
    assert {sliced.reason(job) for job in waiting} == {"QUEUE_MAX"}
    rows = {row["job_id"]: row for row in json.loads(sliced.slurmext("job", "list", "--json"))}
    for job, need in ((waiting[0], "0.14"), (whole, "1")):
        assert "of at most 1 GPU" in rows[job]["message"]
        assert rows[job]["message"].endswith(f"in slices, and the job needs {need}")
    for job in [*jobs, whole]:
        has_ended(sliced, job)


@pytest.mark.slow
def test_a_job_that_outgrows_its_slice_is_tried_again_on_the_next_size(sliced: Site) -> None:
    """With --gpu-oom-retry, once; and `slice advise` says which size would have done."""
    script = (
        "export SLURMEXT_SIMULATED_WORK=memory_mib=9800,percent=60; "
        f"{SAYS}; sleep 5 & wait; [ ${{SLURM_RESTART_COUNT:-0}} -gt 0 ]"
    )
    job = sliced.submit("alice", "--gpu-slice=1g.10gb", "--gpu-oom-retry", "--mem=10", script=script)
    sliced.until(lambda: int(sliced.field(job, "Restarts")) == 1, 60)
    has_ended(sliced, job, timeout_s=90)
    sizes = [one.profile for one in sliced.store.slices(active=False, job_ids=[job]) if one.live_s]
    assert sizes == ["1g.10gb", "1g.20gb"]
    assert "tried again on the next larger size" in sliced.slurmext("history", "--job", job)
    assert json.loads(sliced.slurmext("slice", "advise", job, "--json"))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"release": "trixie"}, {"release": "forky"}, {"dbd": True}], ids=str)
def test_slices_on_other_slurms(new_cluster: Callable[..., Devcluster], options: dict[str, Any]) -> None:
    """Slurm 24.11, 26.05, and one with slurmdbd that lets only users with an association in."""
    cluster = new_cluster(nodes=2, gpus=2, cpus=32, site={"agent": {"slices": {"warm_s": 2}}}, **options)
    policy = cluster.dir / "policy.yaml"
    policy.write_text(SLICED_POLICY)
    cluster.run([sys.executable, "-P", "-m", "slurmext.cli", "policy", "apply", "-i", str(policy)])
    table = cluster.layout.slurmext_run / "slices.tsv"
    until(table.exists)
    with Storm(cluster, mixed(16, 8, seed=5, users=("alice", "bob"))) as storm:
        storm.submit()
        assert storm.wait(120), cluster.out("squeue")
        assert storm.wait_clean(60), cluster.out("squeue")
        assert storm.judge().good, str(storm.judge())
