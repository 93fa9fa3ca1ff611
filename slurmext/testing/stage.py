"""Plays random situations on a devcluster, one after the other, and measures when the guaranteed job runs."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from slurmext.config.wire import snapshot_from_json
from slurmext.devcluster import ClusterSpec, Devcluster
from slurmext.devcluster.spec import NATIVE
from slurmext.errors import SlurmextError
from slurmext.model.job import JobState
from slurmext.testing.reclaimable import reclaimable
from slurmext.testing.situations import CONFIRM, GRACE_S, KINDS, NODE_GPUS, NODES, POLICY, RUNS, Borrower, Situation

FILL_S = 60.0
"""So long a situation may take to come about."""
SETTLED_S = 2.0
LATE_S = GRACE_S + 5.0
PATIENCE_S = 60.0
"""So long a beneficiary is waited for."""
CONF = {"KillWait": "30"}
"""Slurm's default: so long it waits between TERM and KILL where nobody else ends a job."""


class NotPlayed(SlurmextError):
    """A situation did not come about, or nobody could have been served in it: nothing was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """`start_s` is from the call of sbatch to the first line of the job's script; `log` is what slurmextd said,
    and of a job that was late, its explanation and the snapshot then.
    """

    situation: Situation
    start_s: float
    log: str


class Stage:
    """A devcluster of 4 nodes with 8 GPUs under the situations' policy, invariant monitor on. A context manager."""

    def __init__(self, name: str, release: str = NATIVE) -> None:
        self.cluster = Devcluster.up(ClusterSpec(name=name, nodes=NODES, gpus=NODE_GPUS, conf=CONF, release=release))
        self._number, self._seen = 0, ""
        self._folder = self.cluster.dir / "situations"
        self._folder.mkdir()
        policy = self._folder / "policy.yaml"
        policy.write_text(POLICY)
        self.slurmext("policy", "apply", str(policy), "--immediate")
        queues = self.cluster.layout.slurmext_run / "queues.tsv"
        _until(lambda: queues.exists() and "scavenge" in queues.read_text(), 30, "slurmextd to take the policy")

    def slurmext(self, *words: str) -> str:
        """What the command line prints for root."""
        return self.cluster.run([sys.executable, "-P", "-m", "slurmext.cli", *words], check=False).stdout

    def play(self, situation: Situation) -> Played:
        """One situation; the cluster is empty before and after. Raises NotPlayed."""
        self._number += 1
        folder = self._folder / str(self._number)
        folder.mkdir()
        (folder / "confirm.py").write_text(CONFIRM)
        log = self.cluster.layout.log / "slurmextd.out"
        try:
            self._fill(situation, folder)
            # A controller that is still busy with starting them would be measured too.
            time.sleep(0.5 + (situation.phase_s - time.time() - 0.5) % 1)
            from_byte, self._seen = log.stat().st_size, ""
            start_s = self._come(situation, folder)
            with log.open("rb") as file:
                file.seek(from_byte)
                said = file.read().decode(errors="replace")
        finally:
            self._clean(folder)
        return Played(situation=situation, start_s=start_s, log=f"{self._seen}\n{said}")

    def _fill(self, situation: Situation, folder: Path) -> None:
        draw = random.Random(situation.seed)  # noqa: S311
        calls = [self._sbatch(borrower, folder, draw) for borrower in situation.borrowers]
        # One shell for all: each sbatch takes no longer than Slurm needs.
        self.cluster.run(["sh", "-c", "\n".join(calls)])
        count = sum(KINDS[borrower.kind].array for borrower in situation.borrowers)
        begun, before, quiet_from = folder / "running", 0, time.monotonic()
        while (running := begun.read_text().count("\n") if begun.exists() else 0) < count:
            time.sleep(0.05)
            if running > before:
                before, quiet_from = running, time.monotonic()
            # Not every shape fits beside the others: what does not start for a while stays waiting.
            if running and time.monotonic() - quiet_from > SETTLED_S:
                break
            if time.monotonic() - quiet_from > FILL_S:
                raise NotPlayed(f"no borrower runs\n{self.cluster.out('squeue', '--array')}")

    def _sbatch(self, borrower: Borrower, folder: Path, draw: random.Random) -> str:
        kind = KINDS[borrower.kind]
        script = folder / f"{borrower.kind}-{draw.randrange(1 << 30)}"
        text = (RUNS + kind.script).replace("{folder}", str(folder))
        script.write_text(text.replace("{short_s}", f"{draw.uniform(3, 8):.1f}"))
        array = [f"--array=1-{kind.array}"] if kind.array > 1 else []
        words = [
            "sbatch", "--quiet", "--requeue", "--mem=1", "--output=/dev/null", f"--queue={borrower.queue}",
            f"--nodes={borrower.nodes}", f"--gres=gpu:{borrower.gpus}", *kind.options, *array, str(script),
        ]  # fmt: skip
        return " ".join(words)

    def _come(self, situation: Situation, folder: Path) -> float:
        script, started = folder / "beneficiary", folder / "started"
        script.write_text(f"#!/bin/sh\ndate +%s.%N > {started}\n")
        words = [
            "sbatch", "--parsable", "--mem=1", "--output=/dev/null", f"--queue={situation.queue}",
            f"--nodes={situation.nodes}", f"--gres=gpu:{situation.gpus}", str(script),
        ]  # fmt: skip
        called_s = time.time()
        job_id = self.cluster.run(words).stdout.strip()
        late = False
        while not (started.exists() and started.read_text().endswith("\n")):
            time.sleep(0.05)
            if not late and time.time() - called_s > LATE_S:
                late = True
                snapshot = self.slurmext("snapshot", "save", "-")
                self._seen = f"{self.slurmext('job', 'explain', job_id)}\n{snapshot}"
                if not _can_be_served(snapshot, job_id):
                    raise NotPlayed("no set of borrowers that may be taken would make room")
            if time.time() - called_s > PATIENCE_S:
                return PATIENCE_S
        return float(started.read_text()) - called_s

    def _clean(self, folder: Path) -> None:
        def empty() -> bool:
            jobs = self.cluster.out("squeue", "--noheader", "--format=%A").split()
            if jobs:
                self.cluster.run(["scancel", *sorted(set(jobs))], check=False)
            stubborn = folder / "stubborn"
            for pid in stubborn.read_text().split() if stubborn.exists() else ():
                _kill(int(pid))
            return not jobs

        _until(empty, FILL_S, "the cluster to be empty", self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.cluster.down()


def _can_be_served(snapshot: str, job_id: str) -> bool:
    """Whether a job that waits could be served by asking others to go; one that has been told to, or runs, is."""
    seen = snapshot_from_json(snapshot)
    waits = any(job.id == job_id and job.state is JobState.PENDING for job in seen.jobs)
    under_way = any(job.evicting_for == job_id for job in seen.jobs)
    return not waits or under_way or reclaimable(seen, job_id)


def _kill(pid: int) -> None:
    """KILL a job's shell that ignores TERM, if the pid still is one."""
    with contextlib.suppress(OSError):
        if b"slurm_script" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)


def _until(ready: Callable[[], bool], timeout_s: float, what: str, stage: Stage | None = None) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            state = stage.cluster.out("squeue", "--array") if stage else ""
            raise NotPlayed(f"waited {timeout_s:g} s for {what}\n{state}")
        time.sleep(0.05)
