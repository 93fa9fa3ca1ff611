"""The day on a real Slurm."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from live.history import History
from live.load import NODE_GPUS, SPARE, Load
from live.simulated import Constants
from slurmext.devcluster import ClusterSpec, Devcluster
from slurmext.simulate.workload import TraceJob
from slurmext.testing.situations import CONFIRM

SCRIPT = """\
#!/bin/bash
id=$1 left=$2 folder=$3
[ -f $folder/left.$id ] && read left < $folder/left.$id
began=${EPOCHREALTIME/./}
leave() {
  left=$((left - (${EPOCHREALTIME/./} - began)))
  echo $((left > 0 ? left : 0)) > $folder/left.$id
  echo "$id l $EPOCHREALTIME" >> $folder/events
  kill $sleeper
  /usr/bin/python3 -IS $folder/confirm.py
  exec sleep 3600
}
trap leave USR1
echo "$id s $EPOCHREALTIME" >> $folder/events
printf -v part %06d $((left % 1000000))
sleep $((left / 1000000)).$part &
sleeper=$!
wait $sleeper
echo "$id e $EPOCHREALTIME" >> $folder/events
"""


class Live:
    """The devcluster and what its jobs tell."""

    def __init__(self, load: Load, name: str) -> None:
        self.load = load
        self.cluster = Devcluster.up(ClusterSpec(name=name, nodes=load.nodes, gpus=NODE_GPUS))
        self.folder = self.cluster.dir / "live"
        self.folder.mkdir()
        (self.folder / "job").write_text(SCRIPT)
        (self.folder / "confirm.py").write_text(CONFIRM)
        (self.folder / "policy.yaml").write_text(load.policy())
        self.slurmext("policy", "apply", str(self.folder / "policy.yaml"), "--immediate")
        queues = self.cluster.layout.slurmext_run / "queues.tsv"
        self.until(lambda: queues.exists() and next(iter(load.quotas)) in queues.read_text(), "the policy")
        self._environment = self.cluster.environment()

    def slurmext(self, *words: str) -> str:
        """What the command line prints for root."""
        return self.cluster.run([sys.executable, "-P", "-m", "slurmext.cli", *words], check=False).stdout

    def submit(self, job: TraceJob) -> float:
        """Submit; returns when it was called, in Unix seconds."""
        if job.gpus <= NODE_GPUS:
            shape = ["--nodes=1", f"--gres=gpu:{job.gpus}"]
        elif job.gpus % NODE_GPUS == 0:
            shape = [f"--nodes={job.gpus // NODE_GPUS}", f"--gres=gpu:{NODE_GPUS}"]
        else:
            shape = [f"--ntasks={job.gpus}", "--gpus-per-task=1"]
        words = [
            "--quiet", "--requeue", "--mem=1", "--output=/dev/null", "--open-mode=append", "--ckpt=USR1@10",
            f"--queue={job.queue}", *shape, str(self.folder / "job"), job.id, str(round(job.duration_s * 1e6)),
            str(self.folder),
        ]  # fmt: skip
        called_s = time.time()
        subprocess.run(
            [str(self.cluster.bin / "sbatch"), *words], env=self._environment, check=True, cwd="/",
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return called_s

    def events(self) -> list[tuple[str, str, float]]:
        """(job, s | l | e, Unix seconds): started, left, ended."""
        path = self.folder / "events"
        rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(row[0], row[1], float(row[2])) for row in rows]

    def until(self, ready: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
        """Wait."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if time.monotonic() > deadline:
                raise SystemExit(f"waited {timeout_s:g} s for {what}\n{self.cluster.out('squeue')}")
            time.sleep(0.05)

    def calibrate(self, rounds: int) -> Constants:
        """Whole-node jobs, one after the other, on the one node that a large job leaves free: medians."""
        first, share = next(iter(self.load.quotas.items()))
        node = TraceJob(id="c", queue=SPARE, submit_s=0, duration_s=1.0, gpus_per_task=NODE_GPUS)
        self.submit(replace(node, id="rest", duration_s=3600, tasks=self.load.nodes - 1))
        self._until_events("rest", "s")
        starts, gaps, reclaims, requeues, cycles = ([] for _ in range(5))
        for number in range(rounds):
            one, two, victim, taker = (f"c{number}{kind}" for kind in "abvt")
            called_s = self.submit(replace(node, id=one))
            self.submit(replace(node, id=two))
            told = self._until_events(two, "e")
            starts.append(told[one, "s"] - called_s)
            gaps.append(told[two, "s"] - told[one, "e"])
            self.submit(replace(node, id=victim, duration_s=5.0))
            self._until_events(victim, "s")
            time.sleep(1.5)
            taken_s = self.submit(
                replace(node, id=taker, queue=first, duration_s=0.1, gpus_per_task=min(share, NODE_GPUS))
            )
            told = self._until_events(victim, "e")
            reclaims.append(told[taker, "s"] - taken_s)
            cycles.append(json.loads(self.slurmext("daemon", "status", "--json"))["cycle"]["took_s"])
            requeues.append(told[victim, "s"] - told[victim, "l"])
        self.cluster.cancel_all()
        (self.folder / "events").unlink()
        start_s = statistics.median(starts)
        return Constants(
            start_s=start_s,
            gap_s=statistics.median(gaps),
            reclaim_s=max(0.05, statistics.median(reclaims) - start_s),
            requeue_s=statistics.median(requeues),
            cycle_s=statistics.median(cycles),
        )

    def _until_events(self, job: str, kind: str) -> dict[tuple[str, str], float]:
        """When everything happened last, once this has happened to the job."""
        self.until(lambda: any(event[:2] == (job, kind) for event in self.events()), "calibration")
        return {(job, kind): at_s for job, kind, at_s in self.events()}

    def run(self) -> History:
        """Submit everything in its time, and see what comes of it."""
        began_s = time.time()
        history = History()
        for job in sorted(self.load.jobs, key=lambda job: job.submit_s):
            time.sleep(max(0.0, began_s + job.submit_s - time.time()))
            history.submits[job.id] = self.submit(job) - began_s
            self._progress(began_s)
        while (left_s := began_s + self.load.lasts_s - time.time()) > 0:
            time.sleep(min(5.0, left_s))
            self._progress(began_s)
        open_since: dict[str, float] = {}
        for job, kind, at_s in sorted(self.events(), key=lambda event: event[2]):
            if at_s - began_s > self.load.lasts_s:
                break
            if kind == "s":
                open_since[job] = at_s - began_s
            elif job in open_since:
                history.runs.append((job, open_since.pop(job), at_s - began_s))
                history.evictions += kind == "l"
        history.runs += [(job, start_s, self.load.lasts_s) for job, start_s in open_since.items()]
        return history

    _said_s: float = 0.0

    def _progress(self, began_s: float) -> None:
        now_s = time.time()
        if now_s - self._said_s > 60:
            self._said_s = now_s
            kinds = Counter(kind for _, kind, _ in self.events())
            print(
                f"  {now_s - began_s:6.0f} s: {kinds['s']} starts, {kinds['e']} ends, {kinds['l']} evictions",
                file=sys.stderr, flush=True,
            )  # fmt: skip


def spent(cluster: Devcluster, kind: str) -> tuple[float, float]:
    """CPU seconds and resident MiB of the components of a kind."""
    cpu_s = mib = 0.0
    for name, pid in cluster.status().items():
        if name.partition("@")[0] == kind and pid:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu_s += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            mib += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return cpu_s, mib
