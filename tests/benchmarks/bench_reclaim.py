"""How fast a guaranteed job starts when others must go for it.

Two real Slurm clusters of four nodes x 8 GPUs with slurmdbd take turns, the other one's daemons standing still: one with
slurmext, where prod takes its guarantee back from research, and one without, where a QOS preempts another
(PreemptType=preempt/qos, PreemptMode=REQUEUE, GraceTime=0). Everything else in slurm.conf is the same, except that
slurmext's hooks and job_submit are in the one with slurmext. The cluster is full; then

    gang     two whole nodes are asked for where 1-GPU jobs run: sixteen must go
    single   one whole node is asked for where jobs of a whole node run: one must go
    saving   as gang, with slurmext alone: the victims first save a checkpoint and say so

Victims exit at once, so what is measured is who is asked to go and how soon the beneficiary runs. Times are the jobs'
own: from the call of sbatch to the first line of the beneficiary's script, and (gang) from its end until a victim's
script runs again. Slurmctld does much of its work once a second: submissions are spread evenly over that second, and
both clusters get the same. Not compared: how much work is lost (preempt/qos with GraceTime=0 gives no time to save).

The last line is JSON: start_ratio_vs_qos (gang: with slurmext ÷ QOS, median of the rounds' ratios), start_s_p50,
start_s_max and resume_s_p50 with slurmext, qos_start_s_p50, qos_start_s_max, qos_resume_s_p50, the same for the single
victim (single_start_ratio_vs_qos, single_start_s_p50 ...), start_saving_s_p50, victims_p50 and qos_victims_p50 (jobs
that had to go).

    python tests/benchmarks/bench_reclaim.py              7 rounds of gang, 14 of single
    python tests/benchmarks/bench_reclaim.py --quick      one round of each
    python tests/benchmarks/bench_reclaim.py --rounds 20  medians that hold still
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
from dataclasses import dataclass, replace
from pathlib import Path

from bench_hooks import standing_still

from slurmext.devcluster import ClusterSpec, Devcluster

GPUS = 32
NODE_GPUS = 8
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
    """Seconds until the beneficiary ran, seconds after its end until the median victim ran again (0 where that is not
    looked at), and how many had to go.
    """

    start_s: float
    resume_s: float
    victims: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Who fills the cluster, who then comes, and where."""

    cluster: Devcluster
    low: tuple[str, ...]
    high: tuple[str, ...]
    script: str = VICTIM
    single: bool = False

    @property
    def victims(self) -> tuple[int, int]:
        """How many jobs fill the cluster, and with how many GPUs each."""
        return (GPUS // NODE_GPUS, NODE_GPUS) if self.single else (GPUS, 1)

    @property
    def asked(self) -> list[str]:
        """What the beneficiary asks for."""
        return [f"--gres=gpu:{NODE_GPUS}", *(() if self.single else ("--nodes=2", "--ntasks-per-node=8"))]


def main() -> int:
    """Boot, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of each")
    parser.add_argument("--rounds", type=int, help="rounds of each cluster [7; quick 1]; of single twice as many")
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
        theirs = Way(cluster=qos, low=("--qos=low",), high=("--qos=high",))
        mine = Way(cluster=ours, low=("--queue=research",), high=("--queue=prod",))
        saving = replace(mine, low=(*mine.low, "--ckpt=auto"), script=SAVING)
        pause = {qos: ours, ours: qos}
        warm_up = 0 if options.quick else 1
        print(f"\n{GPUS} jobs of 1 GPU run, a gang of 2 x 8 GPUs comes: seconds until it runs")
        gang = compare(
            {"qos": theirs, "slurmext": mine, "saving": saving}, pause, rounds, warm_up, Path(folder, "gang")
        )
        print(f"\n{GPUS // NODE_GPUS} jobs of 8 GPUs run, one more comes: seconds until it runs")
        ways = {"qos": replace(theirs, single=True), "slurmext": replace(mine, single=True)}
        single = compare(ways, pause, rounds if options.quick else 2 * rounds, warm_up, Path(folder, "single"))
    print(json.dumps(figures(gang, single)))
    return 0


def compare(
    ways: dict[str, Way], pause: dict[Devcluster, Devcluster], rounds: int, warm_up: int, folder: Path
) -> dict[str, list[Round]]:
    """Rounds of each way in turns; who goes first alternates."""
    folder.mkdir()
    found: dict[str, list[Round]] = {way: [] for way in ways}
    print(f"{'':<12}" + "".join(f"{way:>10}" for way in ways), flush=True)
    for number in range(-warm_up, rounds):
        order = list(ways) if number % 2 == 0 else list(reversed(ways))
        line: dict[str, Round] = {}
        for way in order:
            with standing_still(pause[ways[way].cluster]):
                line[way] = play(ways[way], Path(folder, f"{way}-{number}"), max(0, number) / rounds)
        if number >= 0:
            for way, measured in line.items():
                found[way].append(measured)
        times = "".join(f"{line[way].start_s:10.2f}" for way in ways)
        print(f"{f'round {number + 1}' if number >= 0 else 'warm-up':<12}{times}", flush=True)
    return found


def figures(gang: dict[str, list[Round]], single: dict[str, list[Round]]) -> dict[str, float]:
    """The medians."""
    ours, qos = gang["slurmext"], gang["qos"]
    return {
        **starts(gang, ""),
        "resume_s_p50": round(statistics.median(r.resume_s for r in ours), 2),
        "qos_resume_s_p50": round(statistics.median(r.resume_s for r in qos), 2),
        **starts(single, "single_"),
        "start_saving_s_p50": round(statistics.median(r.start_s for r in gang["saving"]), 2),
        "victims_p50": statistics.median(r.victims for r in ours),
        "qos_victims_p50": statistics.median(r.victims for r in qos),
        "rounds": len(ours),
    }


def starts(found: dict[str, list[Round]], prefix: str) -> dict[str, float]:
    """How soon both started who came."""
    ours, qos = ([r.start_s for r in found[way]] for way in ("slurmext", "qos"))
    return {
        f"{prefix}start_ratio_vs_qos": round(statistics.median(o / q for o, q in zip(ours, qos, strict=True)), 3),
        f"{prefix}start_s_p50": round(statistics.median(ours), 2),
        f"{prefix}start_s_max": round(max(ours), 2),
        f"qos_{prefix}start_s_p50": round(statistics.median(qos), 2),
        f"qos_{prefix}start_s_max": round(max(qos), 2),
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


def play(way: Way, folder: Path, phase_s: float) -> Round:
    """One round; the cluster is empty before and after. The beneficiary is submitted `phase_s` into a second."""
    folder.mkdir()
    cluster = way.cluster
    for name, text in (("victim", way.script), ("gang", GANG)):
        written = text.format(folder=folder, python=cluster.layout.python, gang_s=0 if way.single else GANG_S)
        Path(folder, name).write_text(written)
    common = ["--output=/dev/null", "--mem=1", "--requeue"]
    count, gpus = way.victims
    for _ in range(count):
        submit(cluster, *common, *way.low, f"--gres=gpu:{gpus}", str(folder / "victim"))
    begun = folder / "victims"
    wait_for(lambda: lines(begun) >= count, f"{count} victims to run", cluster)
    # A controller that is still busy with starting them would be measured too.
    time.sleep(2 + (phase_s - time.time()) % 1)
    called_at = time.time()
    submit(cluster, *common, *way.high, *way.asked, str(folder / "gang"))
    wait_for(lambda: lines(folder / "gang-end") == 1, "the gang to end", cluster)
    started_at, ended_at = (float(Path(folder, f"gang-{what}").read_text()) for what in ("start", "end"))
    if not way.single:
        wait_for(
            lambda: cluster.out("squeue", "-h", "-t", "R", "-o", "%i").count("\n") == count - 1, "resumes", cluster
        )
        wait_for(lambda: not cluster.out("squeue", "-h", "-t", "PD,CG,CF", "-o", "%i"), "all to run", cluster)
    gone = sum(int(restarts) for restarts in cluster.out("squeue", "-h", "-O", "RestartCnt").split())
    again: list[float] = []
    if not way.single:
        wait_for(lambda: lines(begun) >= count + gone, "victims to run again", cluster)
        again = [max(0.0, float(line.split()[1]) - ended_at) for line in begun.read_text().splitlines()[count:]]
    cluster.out("scancel", "--user=root")
    wait_for(lambda: not cluster.out("squeue", "-h", "-o", "%i"), "the cluster to be empty", cluster)
    return Round(start_s=started_at - called_at, resume_s=statistics.median(again or [0.0]), victims=gone)


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
