"""sbatch --preload on a real Slurm: models are on a job's nodes before its first line runs, whatever happens."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from slurmext.adapters.sql import SqlStore
from slurmext.demo import records
from slurmext.devcluster import ClusterSpec, Devcluster
from slurmext.model.staged_model import ModelEntry
from slurmext.staging.importer import import_model
from tests.integration.gates import Gate
from tests.waiting import until

pytestmark = pytest.mark.cluster

PATIENCE_S = 60
POLICY = """\
version: 1
settings: {default_queue: research, grace_s: 8, requeue_delay_s: 1}
queues:
  research: {guaranteed: 8, max: 8}
"""
MIB = 1 << 20
ROOM_MIB = 100
TELL = "echo staged $SLURMD_NODENAME $SLURMEXT_STAGED; echo fallback $SLURMEXT_PRELOAD_FALLBACK; "
SUM = "IFS=:; for each in $SLURMEXT_STAGED; do sha256sum <$each/model.safetensors; done"
"""Of a job on one node; with srun it runs on each."""


class Staged:
    """A cluster of four nodes with two GPUs and room for 100 MiB of models each, and models on storage."""

    def __init__(self, cluster: Devcluster) -> None:
        self.cluster = cluster
        self.storage = cluster.dir / "storage"
        self.storage.mkdir(mode=0o755)
        self.store = SqlStore(f"sqlite:///{cluster.layout.state}/slurmext/state.db", cluster=cluster.spec.name)
        policy = cluster.dir / "policy.yaml"
        policy.write_text(POLICY)
        self.slurmext("policy", "apply", "-i", str(policy))
        self.until((cluster.layout.slurmext_run / "queues.tsv").exists)

    def slurmext(self, *words: str) -> str:
        return self.cluster.run([sys.executable, "-P", "-m", "slurmext.cli", *words]).stdout

    def model(self, name: str, mib: int, *, owner: str = "root", public: bool = True) -> Path:
        """A model of random bytes on storage, registered as `name@v1`; only its owner may read the files."""
        folder = self.storage / name.replace("/", "-")
        folder.mkdir()
        size = mib * MIB
        head = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        head += b" " * (-len(head) % 8)
        file = folder / "model.safetensors"
        file.write_bytes(struct.pack("<Q", len(head)) + head + os.urandom(size))
        manifest = import_model(folder, name, "v1").manifest
        user = pwd.getpwnam(owner)
        if owner != "root":
            os.chown(file, user.pw_uid, user.pw_gid)
            file.chmod(0o400)
        entry = ModelEntry(
            key=manifest.key, owner=owner, uid=user.pw_uid, public=public, size=manifest.size, files=1,
            chunks=manifest.chunk_count, fingerprint=manifest.fingerprint(), storage=str(folder),
            created_s=time.time(),
        )  # fmt: skip
        self.store.models.add(entry, manifest.dump())
        return folder

    def digest(self, folder: Path) -> str:
        return self.cluster.out("sha256sum", str(folder / "model.safetensors")).split()[0]

    def submit(self, user: str, *options: str, script: str = TELL + SUM) -> str:
        argv = ["sbatch", "--parsable", "--mem=10", "--output=%j.out", "--open-mode=append", *options]
        return self.cluster.run([*argv, f"--wrap={script}"], user=user).stdout.strip()

    def until(self, what: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
        return until(what, timeout_s, scene=lambda: self.cluster.out("squeue", "-a"), pause_s=0.1)

    def state(self, job_id: str) -> str:
        return records.job(self.cluster, job_id).state

    def ended(self, job_id: str) -> str:
        """What the job printed, once it is over."""
        self.until(lambda: self.state(job_id) in {"COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL"})
        assert self.state(job_id) == "COMPLETED", self.output(job_id)
        return self.output(job_id)

    def output(self, job_id: str) -> str:
        return "".join(path.read_text() for path in self.cluster.dir.glob(f"home/*/{job_id}.out"))

    def copies(self, name: str) -> dict[str, str]:
        """State of the model by node, as slurmextd knows it."""
        return {each.node: each.state.value for each in self.store.models.replicas() if each.key.name == name}

    def pins(self, name: str) -> dict[str, tuple[str, ...]]:
        return {each.node: each.pins for each in self.store.models.replicas() if each.key.name == name and each.pins}

    def evict(self, name: str) -> None:
        """Nobody has the model any more."""
        if self.copies(name):
            self.until(lambda: not self.pins(name))
            self.slurmext("model", "evict", f"{name}@v1")
            self.until(lambda: not self.copies(name))

    def log(self, node: str) -> str:
        return (self.cluster.layout.log / f"agent@{node}.out").read_text()

    def change(self, **staging: object) -> None:
        """Other settings of the site file's section for the agents."""
        path = self.cluster.layout.site_config
        site = YAML().load(path.read_text())
        site["staging"].update(staging)
        with path.open("w") as file:
            YAML().dump(site, file)
        for node in self.cluster.spec.node_names:
            self.cluster.stop(f"agent@{node}")
            self.cluster.start(f"agent@{node}")
        self.until(self.connected)

    def connected(self) -> bool:
        """Whether slurmextd hears every node: a job that starts on another one is not told what its models are."""
        status = self.cluster.run(
            [sys.executable, "-P", "-m", "slurmext.cli", "daemon", "status", "--json"], check=False
        )
        return status.stdout != "" and len(json.loads(status.stdout).get("agents", ())) == len(self.cluster.node_names)

    def settle(self) -> None:
        for name, pid in self.cluster.status().items():
            if pid is None:
                self.cluster.start(name)
        self.cluster.cancel_all()
        self.until(self.connected)
        assert "drain" not in self.cluster.out("sinfo", "-h", "-o", "%T")


@pytest.fixture(scope="module")
def cluster_of_models() -> Iterator[Staged]:
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd runs jobs as their users")
    site = {"daemon": {"interval_s": 5, "heartbeat_stale_s": 8}, "staging": {"memory_gib": ROOM_MIB / 1024}}
    spec = ClusterSpec(
        name=f"test-preload-{os.getpid()}", nodes=4, gpus=2, users=("alice", "bob"), conf={"KillWait": "4"}, site=site
    )
    with Devcluster.up(spec) as cluster:
        staged = Staged(cluster)
        yield staged
        staged.store.close()


@pytest.fixture
def staged(cluster_of_models: Staged) -> Iterator[Staged]:
    yield cluster_of_models
    cluster_of_models.settle()


def test_a_model_is_on_every_node_before_the_job_runs_and_storage_is_read_once(staged: Staged) -> None:
    """Three nodes get a private model of which only one has read the file; it is held while the job runs."""
    folder, gate = staged.model("alice/net", 48, owner="alice", public=False), Gate(staged.cluster)
    job = staged.submit(
        "alice",
        "-N3",
        "--ntasks-per-node=1",
        "--gres=gpu:1",
        "--preload=alice/net",
        script=f"srun sh -c '{SUM}'; {gate.wait}",
    )
    held = dict.fromkeys(("n1", "n2", "n3"), (f"job-{job}",))
    staged.until(lambda: staged.pins("alice/net") == held)
    gate.open()
    assert staged.ended(job).split() == [staged.digest(folder), "-"] * 3
    staged.until(lambda: not staged.pins("alice/net"))
    read = [
        int(count)
        for node in ("n1", "n2", "n3")
        for count in re.findall(r"alice/net@v1 is complete: .*?(\d+) bytes from \(storage\)", staged.log(node))
    ]
    assert sum(read) == (folder / "model.safetensors").stat().st_size
    # Bob sees neither the model nor that there is one.
    other = staged.submit("bob", "--gres=gpu:1", "--preload=alice/net@v1", script="true")
    words = staged.until(lambda: _message(staged, other))
    assert "no model 'alice/net@v1' that you may read" in words
    staged.cluster.out("scancel", other)


def test_a_second_job_starts_warm_on_the_nodes_that_hold_the_model(staged: Staged) -> None:
    """It is not the first node by name that is taken, but the one with the model; nothing is sent again."""
    folder = staged.model("site/warm", 32)
    staged.slurmext("model", "stage", "site/warm", "-w", "n3")
    staged.until(lambda: staged.copies("site/warm").get("n3") == "complete")
    began = time.time()
    job = staged.submit("bob", "--gres=gpu:2", "--preload=site/warm@v1")
    told = staged.ended(job)
    assert "staged n3 " in told
    assert staged.digest(folder) in told
    assert set(staged.copies("site/warm")) == {"n3"}
    assert time.time() - began < PATIENCE_S / 2
    staged.evict("site/warm")


def test_a_model_comes_while_its_job_waits_in_the_queue(staged: Staged) -> None:
    """All GPUs are taken; the model is brought to where the job will start, and `job explain` says so."""
    staged.model("site/early", 32)
    busy = [staged.submit("alice", "--gres=gpu:2", "--time=10", script="sleep 100") for _ in range(4)]
    staged.until(lambda: all(staged.state(each) == "RUNNING" for each in busy))
    job = staged.submit("bob", "--gres=gpu:2", "--preload=site/early")
    staged.until(lambda: "complete" in staged.copies("site/early").values())
    [holder] = staged.copies("site/early")
    assert staged.state(job) == "PENDING"
    words = staged.until(lambda: (said := _message(staged, job)) and f"site/early@v1 is on {holder}" in said and said)
    assert f"site/early@v1 is on {holder}" in words
    staged.cluster.out("scancel", *staged.cluster.out("squeue", "-h", "-o%i", f"-w{holder}").split())
    assert f"staged {holder} " in staged.ended(job)
    staged.cluster.out("scancel", *busy)
    staged.evict("site/early")


@pytest.mark.slow
def test_a_model_comes_while_a_job_on_a_part_of_a_gpu_waits(staged: Staged) -> None:
    """To the node where slices are free first; it starts warm."""
    folder = staged.model("site/slice", 32)
    whole = "--gpu-slice=7g.80gb:2"
    busy = [staged.submit("alice", whole, "-wn2", "--time=10", script="sleep 300")]
    staged.until(lambda: staged.state(busy[0]) == "RUNNING")
    busy += [staged.submit("alice", "--gres=gpu:2", "--time=100:0:0", script="sleep 300") for _ in range(3)]
    staged.until(lambda: all(staged.state(each) == "RUNNING" for each in busy))
    job = staged.submit("bob", "--gpu-slice=1g.10gb", "--preload=site/slice")
    staged.until(lambda: staged.copies("site/slice").get("n2") == "complete")
    assert staged.state(job) == "PENDING"
    staged.until(lambda: "site/slice@v1 is on n2" in _message(staged, job))
    staged.cluster.out("scancel", busy[0])
    told = staged.ended(job)
    assert "staged n2 " in told
    assert staged.digest(folder) in told
    staged.cluster.out("scancel", *busy)
    staged.evict("site/slice")


@pytest.mark.slow
def test_a_model_comes_while_a_job_without_gpus_waits(staged: Staged) -> None:
    """Slurm alone starts it: on the node that it names, or on the one that the backfill expects."""
    for name, options in (("site/named", ["-wn3"]), ("site/planned", [])):
        staged.model(name, 16)
        busy = [staged.submit("alice", "-N1", "-n4", f"-w{node}", f"--time={minutes}", script="sleep 300")
                for node, minutes in (("n1", 30), ("n2", 30), ("n3", 5), ("n4", 30))]  # fmt: skip
        staged.until(lambda busy=busy: all(staged.state(each) == "RUNNING" for each in busy))
        job = staged.submit("bob", "-n4", "-N1", "--time=5", *options, f"--preload={name}")
        staged.until(lambda name=name: staged.copies(name).get("n3") == "complete")
        assert staged.state(job) == "PENDING"
        staged.cluster.out("scancel", busy[2])
        assert "staged n3 " in staged.ended(job)
        staged.cluster.out("scancel", *busy)
        staged.evict(name)


@pytest.mark.slow
def test_an_agent_killed_in_the_middle_goes_on_where_it_was(staged: Staged) -> None:
    """The prolog waits for an agent that is restarted; what had arrived is not sent again."""
    folder = staged.model("site/kill", 64)
    staged.slurmext("model", "stage", "site/kill", "-w", "n1")
    staged.until(lambda: staged.copies("site/kill").get("n1") == "complete")
    staged.change(tx_cap_gbps=0.1)
    try:
        job = staged.submit("bob", "--gres=gpu:1", "-w", "n2", "--preload=site/kill")
        staged.until(lambda: staged.state(job) == "RUNNING")
        time.sleep(2)
        staged.cluster.kill("agent@n2")
        staged.cluster.start("agent@n2")
        assert staged.digest(folder) in staged.ended(job)
        [arrived] = re.findall(r"site/kill@v1 is complete: (\d+) bytes from n1", staged.log("n2"))
        assert 0 < int(arrived) < 60 * MIB
    finally:
        staged.change(tx_cap_gbps=None)
    staged.evict("site/kill")


@pytest.mark.slow
def test_a_job_whose_agent_is_gone_reads_from_storage(staged: Staged) -> None:
    """The hook gives up on the agent and tells the tasks where the model is stored; the node is not drained."""
    folder = staged.model("site/dead", 16)
    staged.until((staged.cluster.layout.slurmext_run / "agent-n4.catalogue").exists)
    staged.until(lambda: "site/dead" in (staged.cluster.layout.slurmext_run / "agent-n4.catalogue").read_text())
    staged.cluster.kill("agent@n4")
    job = staged.submit("bob", "--gres=gpu:1", "-w", "n4", "--preload=site/dead")
    assert f"fallback site/dead@v1={folder}" in staged.ended(job)


@pytest.mark.slow
def test_a_job_without_slurmextd_takes_what_is_there_and_reads_the_rest_from_storage(staged: Staged) -> None:
    """It starts unheld; a model that its node holds is used, another one read from where it is stored."""
    here, there = staged.model("site/here", 16), staged.model("site/there", 16)
    staged.slurmext("model", "stage", "site/here", "-w", "n2")
    staged.until(lambda: staged.copies("site/here").get("n2") == "complete")
    staged.until(lambda: "site/there" in (staged.cluster.layout.slurmext_run / "agent-n2.catalogue").read_text())
    staged.cluster.kill("slurmextd")
    time.sleep(9)  # until its heartbeat is old
    job = staged.submit("bob", "--gres=gpu:1", "-w", "n2", "--preload=site/here,site/there")
    told = staged.ended(job)
    assert staged.digest(here) in told
    assert f"fallback site/there@v1={there}" in told
    staged.cluster.start("slurmextd")
    staged.evict("site/here")


@pytest.mark.slow
def test_a_model_that_does_not_fit_or_comes_too_late_is_read_from_storage(staged: Staged) -> None:
    """The job starts at once when there is no room, and after the deadline when it takes too long."""
    large = staged.model("site/large", ROOM_MIB + 20)
    began = time.time()
    told = staged.ended(staged.submit("bob", "--gres=gpu:1", "--preload=site/large"))
    assert f"fallback site/large@v1={large}" in told
    assert time.time() - began < PATIENCE_S / 2
    late = staged.model("site/late", 64)
    staged.slurmext("model", "stage", "site/late", "-w", "n1")
    staged.until(lambda: staged.copies("site/late").get("n1") == "complete")
    staged.change(tx_cap_gbps=0.01, prolog_wait_s=2)
    try:
        told = staged.ended(staged.submit("bob", "--gres=gpu:1", "-w", "n3", "--preload=site/late"))
        assert f"fallback site/late@v1={late}" in told
        assert "it took too long" in told
    finally:
        staged.change(tx_cap_gbps=None, prolog_wait_s=300)
    staged.until(lambda: staged.copies("site/late").get("n3") in {None, "complete"})
    staged.evict("site/late")


@pytest.mark.slow
def test_a_node_that_was_rebooted_has_nothing_and_gets_it_again(staged: Staged) -> None:
    """Memory is empty after a reboot; nobody is sent there for the model, and a pinned one comes back."""
    folder = staged.model("site/boot", 16)
    staged.slurmext("model", "pin", "site/boot", "-w", "n3")
    staged.until(lambda: staged.pins("site/boot").get("n3") == ("admin",))
    staged.cluster.kill("agent@n3")
    shutil.rmtree(staged.cluster.layout.memory / "n3")
    staged.until(lambda: "n3" not in staged.copies("site/boot"))
    staged.cluster.start("agent@n3")
    staged.until(lambda: staged.pins("site/boot").get("n3") == ("admin",))
    staged.slurmext("model", "unpin", "site/boot", "-w", "n3")
    staged.until(lambda: not staged.pins("site/boot"))
    assert staged.digest(folder) in staged.ended(staged.submit("bob", "--gres=gpu:1", "--preload=site/boot"))
    staged.evict("site/boot")


def _message(staged: Staged, job_id: str) -> str:
    return next((row.message for row in staged.store.jobs() if row.job.job_id == job_id), "")
