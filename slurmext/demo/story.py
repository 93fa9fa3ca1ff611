"""Boots a cluster, lets research borrow all of it, lets prod ask for its guarantee, and waits for the end."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from subprocess import run as run_process

from slurmext.demo import records
from slurmext.demo.checks import Check, Evidence, checks
from slurmext.devcluster import ClusterSpec, Devcluster
from slurmext.devcluster.errors import BadSpec
from slurmext.errors import SlurmextError
from slurmext.share import SHARE

STEPS, STEP_S, SEED = 420, 0.1, 7
GRACE_S = 20
DEADLINE_S = GRACE_S + 5
GANG_S = 12
USER = "nobody"
"""Jobs run as a user without any rights, who is on every host."""
_POLICY = f"""# Two teams share 32 GPUs; each is guaranteed half and may borrow the rest.
version: 1
settings: {{grace_s: {GRACE_S}, default_queue: research}}
queues:
  research: {{guaranteed: 16, max: 32}}
  prod: {{guaranteed: 16, max: 32}}
"""
_JOBS, _GPUS = 8, 4

Say = Callable[[str], None]


class DemoFailed(SlurmextError):
    """The demo did not get where it should; the message says at which step, the cluster's logs say why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the demo saw: its checks, and slurmext's own timeline of it."""

    checks: Sequence[Check]
    timeline: str

    @property
    def good(self) -> bool:
        """Whether every check holds."""
        return all(check.good for check in self.checks)


def play(spec: ClusterSpec, say: Say, *, keep: bool = False) -> Result:
    """The whole story. Raises SlurmextError when a step cannot be taken; the cluster is taken down unless `keep`."""
    _clear_interrupted(spec, say)
    say(f"booting a real Slurm: {spec.nodes} nodes with {spec.gpus} simulated GPUs each")
    cluster = Devcluster.up(spec, say)
    try:
        return _Story(cluster, say).tell()
    finally:
        if keep:
            say(f"the cluster stays: slurmext devcluster shell --name {spec.name}, then down --name {spec.name}")
        else:
            cluster.down()


def _clear_interrupted(spec: ClusterSpec, say: Say) -> None:
    """Remove what a demo left that was killed, or that a reboot ended; one that still runs stays."""
    with contextlib.suppress(BadSpec):
        former = Devcluster.attach(spec.directory)
        if not any(former.status().values()):
            say(f"removing {spec.directory}, which an interrupted demo left")
            former.down()


class _Story:
    def __init__(self, cluster: Devcluster, say: Say) -> None:
        self._cluster, self._say = cluster, say
        self._home = cluster.home(USER)
        self._script = self._home / "train_numpy.py"
        shutil.copyfile(SHARE / "examples" / "train_numpy.py", self._script)

    def tell(self) -> Result:
        self._apply_policy()
        reference = self._reference()
        research = self._borrow()
        before = {job: records.job(self._cluster, job).nodes for job in research}
        savers = frozenset(job for job, saves in research.items() if saves)
        gang, submitted_s, running_s = self._reclaim(research)
        self._see_off(research, gang)
        seen = Evidence(
            research={job: records.job(self._cluster, job) for job in research},
            outputs={job: records.output(self._home / f"{job}.out") for job in research},
            gang=records.job(self._cluster, gang),
            before=before,
            savers=savers,
            gpus_per_job=_GPUS,
            gang_gpus=16,
            submitted_s=submitted_s,
            running_s=running_s,
            deadline_s=DEADLINE_S,
            reference_loss=reference,
        )
        return Result(checks=checks(seen), timeline=self._timeline())

    def _apply_policy(self) -> None:
        policy = self._home / "policy.yaml"
        policy.write_text(_POLICY)
        self._slurmext("policy", "apply", str(policy), "--immediate")
        self._say("policy: queues research and prod, each guaranteed 16 GPUs and allowed to borrow up to 32")
        self._until("slurmextd to take the policy", 15, self._queues_known)

    def _queues_known(self) -> bool:
        table = self._cluster.layout.slurmext_run / "queues.tsv"
        return table.exists() and "prod" in table.read_text()

    def _reference(self) -> str:
        """The loss of the same training, alone and uninterrupted: a job without GPUs, left to Slurm."""
        training = ["python3", str(self._script), *_training(every_s=600), "--dir", str(self._home / "reference")]
        job = self._sbatch(["--job-name=reference"], f"srun {' '.join(training)}")
        self._until("the reference run", 120, lambda: self._state(job) not in {"PENDING", "RUNNING", "COMPLETING"})
        loss = records.output(self._home / f"{job}.out").loss
        if loss is None:
            raise DemoFailed(f"the reference run printed no final loss: see {self._home / job}.out")
        self._say(f"reference: {STEPS} optimizer steps without interruption end at loss {loss}")
        return loss

    def _borrow(self) -> Mapping[str, bool]:
        """Research fills the cluster; every other pair of jobs saves often, so losing it costs little."""
        jobs = dict[str, bool]()
        for index in range(_JOBS):
            saves = index % 4 >= 2  # noqa: PLR2004  two jobs fill a node
            every_s = 3 if saves else 600
            training = " ".join(["python3", str(self._script), *_training(every_s=every_s), "--step-time", str(STEP_S)])
            jobs[
                self._sbatch(
                    ["--queue=research", "--ckpt=auto", "--gres=gpu:4", "--job-name=train"], f"srun {training}"
                )
            ] = saves
            self._until("the job to start", 20, lambda: self._state([*jobs][-1]) == "RUNNING")
        self._say(
            f"research: {_JOBS} training jobs of {_GPUS} GPUs "
            "(sbatch --queue=research --ckpt=auto): 16 GPUs of its own, 16 borrowed"
        )
        self._until("the first checkpoints", 30, lambda: all(self._saved(job) for job, saves in jobs.items() if saves))
        self._show()
        return jobs

    def _reclaim(self, research: Mapping[str, bool]) -> tuple[str, float, float]:
        submitted_s = time.time()
        gang = self._sbatch(
            ["--queue=prod", "--nodes=2", "--gres=gpu:8", "--job-name=gang"], f"srun hostname; sleep {GANG_S}"
        )
        self._say(f"prod: a gang of 2 x 8 GPUs (job {gang}) claims its guarantee while nothing is free")
        said = set[str]()
        while self._state(gang) == "PENDING":
            for job in research:
                state = self._state(job)
                if state != "RUNNING" and job not in said:
                    said.add(job)
                    steps = records.output(self._home / f"{job}.out").saved
                    self._say(f"  job {job}: signalled, saved step {steps[-1] if steps else '?'}, requeued ({state})")
            if time.time() - submitted_s > 3 * DEADLINE_S:
                raise DemoFailed(
                    f"prod's gang is still pending after {3 * DEADLINE_S} s: see {self._cluster.layout.log}"
                )
            time.sleep(0.1)
        running_s = time.time()
        self._say(f"prod: gang {gang} runs {running_s - submitted_s:.1f} s after sbatch")
        self._show()
        return gang, submitted_s, running_s

    def _see_off(self, research: Mapping[str, bool], gang: str) -> None:
        self._until("the gang to end", GANG_S + 60, lambda: self._state(gang) == "COMPLETED")
        self._say("prod: done; what it took back is idle again, and the victims borrow it")
        pending = list(research)
        deadline = time.time() + 120
        resumed = set[str]()
        while pending:
            for job in list(pending):
                steps = records.output(self._home / f"{job}.out").resumed
                if steps and job not in resumed:
                    resumed.add(job)
                    self._say(f"  job {job}: resumed at step {steps[0]}")
                if self._state(job) in {"COMPLETED", "FAILED", "CANCELLED"}:
                    pending.remove(job)
            if time.time() > deadline:
                raise DemoFailed(f"jobs {', '.join(pending)} did not end: see {self._cluster.layout.log}")
            time.sleep(0.2)
        self._say("research: all jobs have ended")

    # Slurm

    def _sbatch(self, options: Sequence[str], command: str) -> str:
        env = {"PYTHONPATH": str(self._cluster.layout.python)}
        argv = [
            "sbatch",
            "--parsable",
            "--output=%j.out",
            "--open-mode=append",
            *options,
            "--wrap",
            command,
        ]
        return self._cluster.run(argv, user=USER, env=env).stdout.strip()

    def _state(self, job: str) -> str:
        # By field, not by job: scontrol knows a job for minutes after its end, squeue may not.
        return records.job(self._cluster, job).state

    def _saved(self, job: str) -> bool:
        return bool(records.output(self._home / f"{job}.out").saved)

    def _show(self) -> None:
        for line in self._cluster.out("squeue", "-o", "    %6i %8j %11T %5D %R").splitlines():
            self._say(line)

    def _timeline(self) -> str:
        """The daemon's decisions as the state store has them; the agents' hundred checkpoints are left out."""
        lines = self._slurmext("history").splitlines()
        return "\n".join([*lines[:2], *(line for line in lines[2:] if " daemon " in line)])

    def _slurmext(self, *args: str) -> str:
        argv = [sys.executable, "-P", "-m", "slurmext.cli.main", *args]
        done = run_process(
            argv, env=self._cluster.environment(), capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode != 0:
            raise DemoFailed(f"slurmext {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def _until(self, what: str, timeout_s: float, true: Callable[[], bool]) -> None:
        deadline = time.time() + timeout_s
        while not true():
            if time.time() > deadline:
                raise DemoFailed(f"waited {timeout_s:g} s for {what}: see {self._cluster.layout.log}")
            time.sleep(0.1)


def _training(*, every_s: float) -> list[str]:
    return ["--steps", str(STEPS), "--seed", str(SEED), "--every", str(every_s)]
