"""A cluster of 4 nodes with 8 GPUs under a policy, for tests of what slurmextd does to a real Slurm."""

from __future__ import annotations

import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from slurmext.adapters.sql import SqlStore
from slurmext.demo import records
from slurmext.devcluster import ClusterSpec, Devcluster
from tests.integration.gates import Gate
from tests.waiting import PATIENCE_S, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping

    from slurmext.demo.records import SlurmRecord

GRACE_S, STALE_S = 8, 8
POLICY = f"""\
version: 1
settings: {{default_queue: research, grace_s: {GRACE_S}, requeue_delay_s: 1}}
queues:
  research: {{guaranteed: 16, max: 32}}
  prod: {{guaranteed: 16, max: 32}}
  closed: {{guaranteed: 0, max: 4, over_max: hold, acl: {{users: [alice]}}}}
"""
SAVER = """\
import time
from slurmext.checkpoint import Checkpointer
checkpoints = Checkpointer({"x": 1}, every_s=None)
step = checkpoints.restore()
print("ready" if step is None else f"resumed at {step}", flush=True)
for step in range(step or 0, 5000):
    if checkpoints.due():
        checkpoints.save(step)
        print("saved", step, flush=True)
    time.sleep(0.1)
"""
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"})


class Site:
    """A cluster under the policy above. What it says of jobs comes from Slurm, `store` is slurmextd's own record."""

    grace_s, stale_s = GRACE_S, STALE_S

    def __init__(self, cluster: Devcluster) -> None:
        self.cluster = cluster
        self.database = cluster.layout.state / "slurmext" / "state.db"
        self.store = SqlStore(f"sqlite:///{self.database}", cluster=cluster.spec.name)

    def slurmext(self, *args: str) -> str:
        """What the command line prints for root."""
        return self.cluster.run([sys.executable, "-P", "-m", "slurmext.cli", *args]).stdout

    def apply(self, policy: str) -> str:
        """Put a policy in force, and wait until job_submit knows its queues; what was said to it."""
        file = self.cluster.dir / "policy.yaml"
        file.write_text(policy)
        said = self.slurmext("policy", "apply", "-i", str(file))
        queues = set(re.findall(r"^  (\w+): \{", policy, re.MULTILINE))
        table = self.cluster.layout.slurmext_run / "queues.tsv"
        self.until(
            lambda: (
                table.exists()
                and queues
                == {line.split("\t")[0] for line in table.read_text().splitlines() if not line.startswith("#")}
            )
        )
        return said

    def submit(self, user: str, *options: str, script: str = "sleep 300", env: Mapping[str, str] | None = None) -> str:
        """The id of a new batch job."""
        argv = ["sbatch", "--parsable", "--output=%j.out", "--open-mode=append", *options, f"--wrap={script}"]
        return self.cluster.run(argv, user=user, env=env).stdout.strip()

    def submit_saver(self, user: str, *options: str) -> str:
        """A job that saves when it is told to, says so in its output, and resumes."""
        program = self.cluster.home(user) / "saver.py"
        program.write_text(SAVER)
        env = {"PYTHONPATH": str(self.cluster.layout.python)}
        return self.submit(user, "--ckpt=auto", *options, script=f"/usr/bin/python3 {program}", env=env)

    def refused(self, user: str, *options: str) -> str:
        """What sbatch says to a job that it refuses."""
        done = self.cluster.run(["sbatch", *options, "--wrap", "true"], user=user, check=False)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def scontrol(self, *args: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.cluster.run(["scontrol", *args], user=user, check=False)

    def job(self, job_id: str) -> SlurmRecord:
        return records.job(self.cluster, job_id)

    def state(self, job_id: str) -> str:
        return self.job(job_id).state

    def field(self, job_id: str, name: str) -> str:
        """A field of `scontrol show job`."""
        text = self.cluster.out("scontrol", "--oneliner", "show", "job", job_id)
        return text.partition(f" {name}=")[2].split(" ")[0]

    def states(self) -> dict[str, str]:
        """Every job and array task that has not ended."""
        lines = self.cluster.out("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def output(self, user: str, job_id: str) -> str:
        path = self.cluster.home(user) / f"{job_id}.out"
        return path.read_text() if path.exists() else ""

    def until(self, what: Callable[[], Any], timeout_s: float = PATIENCE_S) -> Any:
        """The first true value of `what`."""
        return until(what, timeout_s, scene=self.scene, pause_s=0.1)

    def scene(self) -> str:
        """What there is to see: Slurm's jobs, those that ended too, and the last lines of what they printed."""
        jobs = self.cluster.out("scontrol", "--oneliner", "show", "jobs").splitlines()
        told = ("JobId", "JobState", "Reason", "Restarts", "ExitCode", "StartTime", "EndTime", "NodeList")
        lines = [" ".join(word for word in job.split() if word.partition("=")[0] in told) for job in jobs]
        for path in sorted(self.cluster.layout.home.glob("*/*.out"), key=lambda path: path.stat().st_mtime)[-3:]:
            lines += [f"--- {path}", *path.read_text(errors="replace").splitlines()[-5:]]
        return "\n".join(lines)

    def until_running(self, *job_ids: str) -> None:
        self.until(lambda: all(self.state(job) == "RUNNING" for job in job_ids))

    def until_ended(self, *job_ids: str) -> None:
        self.until(lambda: all(self.state(job) in ENDED for job in job_ids))

    def until_known(self, *job_ids: str) -> None:
        """Until the daemon has these jobs in its records."""
        self.until(lambda: set(job_ids) <= {row.job.job_id for row in self.store.jobs()})

    def reason(self, job_id: str) -> str:
        """Why slurmextd lets the job wait."""
        return next((row.reason for row in self.store.jobs() if row.job.job_id == job_id), "")

    def fill(self, *options: str) -> list[str]:
        """Alice's research jobs on all 32 GPUs, half of them borrowed: a job on each node, its script there."""
        gate = Gate(self.cluster)
        script = f"{gate.pass_by}; sleep 300"
        jobs = [self.submit("alice", "--queue=research", "--gres=gpu:8", *options, script=script) for _ in range(4)]
        self.until(lambda: gate.reached(*jobs))
        return jobs

    def broken_laws(self, since_s: float) -> list[str]:
        """What the invariant monitor found; how long things take says nothing where a test stops daemons."""
        events = self.store.events(since_s=since_s, limit=100_000)
        timed = {"guaranteed demand starts in time", "every beneficiary did start"}
        return [e.message for e in events if e.kind == "invariant" and e.detail["law"] not in timed]

    def settle(self) -> None:
        """Everything runs again, no job is left, nothing is under way."""
        for name, pid in self.cluster.status().items():
            if pid is None:
                self.cluster.start(name)
        self.cluster.cancel_all()
        self.until(lambda: not self.store.open_actions() and not self.store.fences())


@pytest.fixture(scope="session")
def policed() -> Iterator[Site]:
    """The cluster, booted when first asked for. Tests use `site`, which cleans up."""
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd runs jobs as their users")
    daemon = {"interval_s": 5, "heartbeat_stale_s": STALE_S}
    # A job cancelled in the very moment of its start may miss the TERM: it is killed after KillWait.
    conf = {"KillWait": "4", "Licenses": "solver:1"}
    spec = ClusterSpec(name=f"test-site-{os.getpid()}", users=("alice", "bob"), conf=conf, site={"daemon": daemon})
    with Devcluster.up(spec) as cluster:
        site = Site(cluster)
        site.apply(POLICY)
        yield site
        site.store.close()


@pytest.fixture
def site(policed: Site) -> Iterator[Site]:
    """The cluster under its policy, without jobs and with every process running before and after the test.

    In none of its cycles was a law of the queues broken.
    """
    began_s = time.time()
    yield policed
    policed.settle()
    assert policed.broken_laws(began_s) == []


SLICED_POLICY = """\
version: 1
settings: {default_queue: research, grace_s: 8, requeue_delay_s: 1}
queues:
  research: {guaranteed: 4, max: 8}
  prod: {guaranteed: 4, max: 8}
  small: {guaranteed: 0, max: 1}
slices: {empty_for_s: 4, keep_for_s: 1}
"""


@pytest.fixture(scope="module")
def cut_cluster() -> Iterator[Site]:
    """2 nodes with 4 simulated H100 each, whose parts jobs may have. Tests use `sliced`, which cleans up."""
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd runs jobs as their users")
    spec = ClusterSpec(
        name=f"test-cut-{os.getpid()}", nodes=2, gpus=4, cpus=64, users=("alice", "bob"), conf={"KillWait": "4"},
        site={"daemon": {"interval_s": 5, "heartbeat_stale_s": STALE_S}, "agent": {"slices": {"warm_s": 2}}},
    )  # fmt: skip
    with Devcluster.up(spec) as cluster:
        site = Site(cluster)
        site.apply(SLICED_POLICY)
        site.until((cluster.layout.slurmext_run / "slices.tsv").exists)
        yield site
        site.store.close()


@pytest.fixture
def sliced(cut_cluster: Site) -> Iterator[Site]:
    """That cluster with every process running, nothing on its GPUs and no job, before and after the test."""
    began_s = time.time()
    yield cut_cluster
    for node in cut_cluster.cluster.node_names:
        cut_cluster.cluster.gpus(node).clear_calls()
    cut_cluster.settle()
    cut_cluster.until(lambda: not _on_gpus(cut_cluster) and not cut_cluster.store.holds(), 90)
    assert cut_cluster.broken_laws(began_s) == []


def _on_gpus(site: Site) -> list[object]:
    return [one for node in site.cluster.node_names for one in site.cluster.gpus(node).slices()]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Shows what slurmextd said last in a failed test."""
    outcome: Any = yield
    report = outcome.get_result()
    given = getattr(item, "funcargs", {})
    site = given.get("policed") or given.get("cut_cluster")
    if report.when == "call" and report.failed and site is not None:
        lines = (site.cluster.layout.log / "slurmextd.out").read_text(errors="replace").splitlines()[-30:]
        report.sections.append(("end of slurmextd.out", "\n".join(lines)))
