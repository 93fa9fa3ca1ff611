"""How fast a guaranteed job starts when others must go for it: `python tests/benchmarks/bench_reclaim.py [--quick]`.

Two real Slurm clusters of four nodes x 8 GPUs with slurmdbd take turns, the other one's daemons standing still: one with
slurmext, where prod takes its guarantee back from research, and one without, where a QOS preempts another
(PreemptType=preempt/qos, PreemptMode=REQUEUE, GraceTime=0). Everything else in slurm.conf is the same. Thirty-two
1-GPU jobs fill the cluster; a gang of two whole nodes is submitted; sixteen must go. Victims exit at once, so what is
measured is who is asked to go and how soon the gang runs. Times are the jobs' own: from the call of sbatch to the first
line of the gang's script, and from the gang's end until a victim's script runs again.

The last line is JSON: start_ratio_vs_qos (with slurmext ÷ QOS, median of the rounds' ratios), start_s_p50 and
resume_s_p50 with slurmext, qos_start_s_p50, qos_resume_s_p50, start_saving_s_p50 (victims that first save a
checkpoint), victims_p50 and qos_victims_p50 (jobs that had to go).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench_hooks import standing_still

from slurmext.devcluster import ClusterSpec, Devcluster

GPUS = 32
GANG_S = 8
"""Longer than the requeue delay of a devcluster, so that every victim is eligible when the gang ends."""
LIMIT_S = 120
QOS = {"PreemptType": "preempt/qos", "PreemptMode": "REQUEUE"}
POLICY = """\
version: 1
settings: {grace_s: 30}
queues:
  research: {guaranteed: 16, max: 32}
  prod: {guaranteed: 16, max: 32}
"""
VICTIM = "#!/bin/sh\necho $SLURM_JOB_ID $(date +%s.%N) >> {folder}/victims\nexec sleep 3600\n"
SAVING = """\
#!/bin/sh
echo $SLURM_JOB_ID $(date +%s.%N) >> {folder}/victims
export PYTHONPATH={python}
exec /usr/bin/python3 -c '
import time
from slurmext.checkpoint import Checkpointer
state = {{"step": 0}}
saver = Checkpointer(state, "{folder}/ckpt-'$SLURM_JOB_ID'")
for step in range((saver.restore() or 0) + 1, 10**9):
    state["step"] = step
    if saver.due(step):
        saver.save(step)
    time.sleep(0.2)
'
"""
GANG = "#!/bin/sh\ndate +%s.%N > {folder}/gang-start\nsleep {gang_s}\ndate +%s.%N > {folder}/gang-end\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Seconds until the gang ran, seconds after its end until the median victim ran again, and how many had to go."""

    start_s: float
    resume_s: float
    victims: int


def main() -> int:
    """Boot, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of each, in under two minutes")
    parser.add_argument("--rounds", type=int, help="rounds of each cluster [7; quick 1]")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 7)
    name = f"bench-{os.getpid()}"
    with (
        Devcluster.up(ClusterSpec(name=f"{name}-q", plain=True, dbd=True, conf=QOS)) as qos,
        Devcluster.up(ClusterSpec(name=f"{name}-x", dbd=True)) as ours,
        tempfile.TemporaryDirectory() as folder,
    ):
        prepare_qos(qos)
        prepare_ours(ours, Path(folder))
        ways = {
            "qos": (qos, ["--qos=low"], ["--qos=high"], VICTIM),
            "slurmext": (ours, ["--queue=research"], ["--queue=prod"], VICTIM),
            "saving": (ours, ["--queue=research", "--ckpt=auto"], ["--queue=prod"], SAVING),
        }
        found: dict[str, list[Round]] = {way: [] for way in ways}
        print(f"\n{GPUS} jobs of 1 GPU run, a gang of 2 x 8 GPUs comes (seconds)")
        print(f"{'':<12}{'QOS':>10}{'slurmext':>10}{'saving':>10}   until the gang runs")
        for number in range(rounds + 1):
            order = list(ways) if number % 2 == 0 else list(reversed(ways))
            for way in order:
                cluster, low, high, script = ways[way]
                with standing_still(ours if cluster is qos else qos):
                    measured = play(cluster, low, high, script, Path(folder, f"{way}-{number}"))
                if number:
                    found[way].append(measured)
                elif way == "slurmext":
                    print(f"{'warm-up':<12}", flush=True)
            if number:
                times = "".join(f"{found[way][-1].start_s:10.2f}" for way in ways)
                print(f"round {number:<6}{times}", flush=True)
    print(json.dumps(figures(found)))
    return 0


def figures(found: dict[str, list[Round]]) -> dict[str, float]:
    """The medians."""
    ours, qos = found["slurmext"], found["qos"]
    return {
        "start_ratio_vs_qos": round(
            statistics.median(o.start_s / q.start_s for o, q in zip(ours, qos, strict=True)), 3
        ),
        "start_s_p50": round(statistics.median(r.start_s for r in ours), 2),
        "qos_start_s_p50": round(statistics.median(r.start_s for r in qos), 2),
        "start_saving_s_p50": round(statistics.median(r.start_s for r in found["saving"]), 2),
        "resume_s_p50": round(statistics.median(r.resume_s for r in ours), 2),
        "qos_resume_s_p50": round(statistics.median(r.resume_s for r in qos), 2),
        "victims_p50": statistics.median(r.victims for r in ours),
        "qos_victims_p50": statistics.median(r.victims for r in qos),
        "rounds": len(ours),
    }


def prepare_qos(cluster: Devcluster) -> None:
    """Two QOSes, one of which preempts the other."""
    for words in (
        ["add", "qos", "low"],
        ["modify", "qos", "low", "set", "PreemptMode=requeue", "Priority=1", "GraceTime=0"],
        ["add", "qos", "high"],
        ["modify", "qos", "high", "set", "Preempt=low", "Priority=1000"],
        ["modify", "user", "root", "set", "qos=normal,low,high"],
    ):
        cluster.out("sacctmgr", "-i", *words)
    deadline = time.monotonic() + 30
    while cluster.run(["sbatch", "--test-only", "--qos=high", "--wrap=true"], check=False).returncode:
        if time.monotonic() > deadline:
            raise SystemExit("slurmctld does not know the QOS")
        time.sleep(0.2)


def prepare_ours(cluster: Devcluster, folder: Path) -> None:
    """Two queues, each guaranteed half."""
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    subprocess.run(
        [sys.executable, "-P", "-m", "slurmext.cli.main", "policy", "apply", str(policy), "--immediate"],
        env=cluster.environment(),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    queues = cluster.layout.slurmext_run / "queues.tsv"
    deadline = time.monotonic() + 30
    while not (queues.exists() and "prod" in queues.read_text()):
        if time.monotonic() > deadline:
            raise SystemExit(f"slurmextd did not take the policy: {queues}")
        time.sleep(0.1)


def play(cluster: Devcluster, low: list[str], high: list[str], script: str, folder: Path) -> Round:
    """One round; the cluster is empty before and after."""
    folder.mkdir()
    for name, text in (("victim", script), ("gang", GANG)):
        written = text.format(folder=folder, python=cluster.layout.python, gang_s=GANG_S)
        Path(folder, name).write_text(written)
    common = ["--output=/dev/null", "--mem=1", "--requeue"]
    for _ in range(GPUS):
        submit(cluster, *common, *low, "--gres=gpu:1", str(folder / "victim"))
    starts = folder / "victims"
    wait_for(lambda: lines(starts) >= GPUS, f"{GPUS} victims to run", cluster)
    time.sleep(2)  # a controller that is still busy with starting them would be measured too
    called_at = time.time()
    submit(cluster, *common, *high, "--nodes=2", "--ntasks-per-node=8", "--gres=gpu:8", str(folder / "gang"))
    wait_for((folder / "gang-start").exists, "the gang to start", cluster)
    wait_for((folder / "gang-end").exists, "the gang to end", cluster)
    started_at, ended_at = (float(Path(folder, f"gang-{what}").read_text() or 0) for what in ("start", "end"))
    wait_for(lambda: cluster.out("squeue", "-h", "-t", "R", "-o", "%i").count("\n") == GPUS - 1, "resumes", cluster)
    wait_for(lambda: not cluster.out("squeue", "-h", "-t", "PD,CG,CF", "-o", "%i"), "all to run", cluster)
    gone = sum(int(count) for count in cluster.out("squeue", "-h", "-O", "RestartCnt").split())
    wait_for(lambda: lines(starts) >= GPUS + gone, "victims to run again", cluster)
    again = [float(line.split()[1]) for line in starts.read_text().splitlines()][GPUS:]
    cluster.out("scancel", "--user=root")
    wait_for(lambda: not cluster.out("squeue", "-h", "-o", "%i"), "the cluster to be empty", cluster)
    resume_s = statistics.median(max(0.0, at - ended_at) for at in again)
    return Round(start_s=started_at - called_at, resume_s=resume_s, victims=len(again))


def submit(cluster: Devcluster, *words: str) -> None:
    subprocess.run(
        [str(cluster.bin / "sbatch"), "--quiet", *words],
        env=cluster.environment(),
        check=True,
        cwd="/",
        stdout=subprocess.DEVNULL,
    )


def lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


def wait_for(ready: object, what: str, cluster: Devcluster) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not ready():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {LIMIT_S} s for {what}:\n{cluster.out('squeue')}")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
