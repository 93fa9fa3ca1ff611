"""A busy day of a real trace on a real Slurm, and how far the same day simulated is from it.

The busiest day of the micro week of Microsoft Philly (Jeon et al., USENIX ATC'19; CC-BY-4.0) runs in time lapse on a
devcluster of 32 nodes x 8 simulated GPUs: slurmctld, a slurmd and an agent for each node, slurmextd, and jobs that
sleep for as long as the traced ones ran. Virtual clusters are queues guaranteed their quota. A job that is told to go
notes what it still has to do, confirms and is requeued; when it starts again it goes on. Then slurmext's simulator gets
the same submissions, and constants measured on that cluster before: how long a job takes to start, how long GPUs stay
taken around a job's work, how long a victim takes to go and to start again, how long a cycle of slurmextd takes.

What ran at the day's start comes from a simulation of the days before; on fewer nodes every n-th job of the trace runs.
The last line is JSON: start_diff_s_p50 and start_diff_s_p95 (a job's first start, live against simulated),
evictions_live, evictions_sim, wait_mean_live_s, wait_mean_sim_s, util_live, util_sim, disagree_pct (jobs that started
in one alone). A day is chaotic: one job on another node changes who is evicted for hours. So the simulation is repeated
ten times with submissions up to half a second later, cycles half to twice as long and nodes in another order; ..._range is what these give, and
repeat_start_diff_s_p50 and _p95 how far their starts are from the first one's.

    python tests/benchmarks/bench_live.py             32 nodes, a day in 24 minutes (1:60)
    python tests/benchmarks/bench_live.py --medium    8 nodes, five hours in 5 minutes
    python tests/benchmarks/bench_live.py --quick     4 nodes, three hours in 36 seconds

The traces are looked for in --traces, SLURMEXT_TRACES or ../shared/data/traces.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from slurmext.config.policy import parse_policy
from slurmext.devcluster import ClusterSpec, Devcluster
from slurmext.model.job import JobState
from slurmext.model.node import Node
from slurmext.model.plan import Plan
from slurmext.model.policy import Policy
from slurmext.model.snapshot import Snapshot
from slurmext.simulate import formats
from slurmext.simulate.engine import Simulation, World
from slurmext.simulate.report import percentile
from slurmext.simulate.workload import TraceJob
from slurmext.testing.situations import CONFIRM

DAY_S = 86400.0
WEEK_NODES, NODE_GPUS = 32, 8
JITTER_S, REPEATS = 0.5, 10
SPARE = "spare"
"""A queue that is guaranteed nothing: all that runs in it may be taken back."""
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "img" / "bench-live-day.png"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to run: times in seconds of the lapse. `gpus` per queue is guaranteed."""

    jobs: tuple[TraceJob, ...]
    quotas: Mapping[str, int]
    nodes: int
    lasts_s: float

    def policy(self) -> str:
        """The policy file."""
        queues = "".join(f'  "{queue}": {{guaranteed: {gpus}}}\n' for queue, gpus in self.quotas.items())
        return f"version: 1\nsettings: {{grace_s: 10, requeue_delay_s: 6}}\nqueues:\n  {SPARE}: {{guaranteed: 0}}\n{queues}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Seconds on this cluster: from the call of sbatch to the script's first line, from a script's end to the next one's
    first line on the same GPUs, the same for a victim's, after its leaving until a victim may start again, and how long a
    cycle of slurmextd takes.
    """

    start_s: float
    gap_s: float
    reclaim_s: float
    requeue_s: float
    cycle_s: float


@dataclass(slots=True, kw_only=True)
class History:
    """What happened: when each job was submitted, and when it worked. Times in seconds since the beginning."""

    submits: dict[str, float] = field(default_factory=dict[str, float])
    runs: list[tuple[str, float, float]] = field(default_factory=list[tuple[str, float, float]])
    evictions: int = 0

    def starts(self) -> dict[str, float]:
        """First starts."""
        found: dict[str, float] = {}
        for job, start_s, _ in self.runs:
            found[job] = min(start_s, found.get(job, start_s))
        return found

    def waits(self, lasts_s: float) -> list[float]:
        """From submission to the first start, or to the end for those that did not start."""
        starts = self.starts()
        return [min(lasts_s, starts.get(job, lasts_s)) - at_s for job, at_s in self.submits.items()]


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


class Stopped(Exception):
    """The simulated time is over."""


@dataclass(slots=True, kw_only=True)
class Observer:
    """Follows a simulation and stops it at `until_s`."""

    until_s: float
    history: History = field(default_factory=History)
    left: Snapshot | None = None
    _open: dict[str, float] = field(default_factory=dict[str, float])

    def look(self, snapshot: Snapshot, made: Plan) -> None:
        """Every plan."""
        now_s = float(snapshot.now_s)
        running = {job.id for job in snapshot.jobs if job.state is JobState.RUNNING}
        for job in [job for job in self._open if job not in running]:
            self.history.runs.append((job, self._open.pop(job), min(now_s, self.until_s)))
        if now_s > self.until_s:
            self.history.runs += [(job, start_s, self.until_s) for job, start_s in self._open.items()]
            self.left = snapshot
            raise Stopped
        self.history.evictions += len(made.evict) + len(made.move)
        self._open |= {release.job: now_s for release in made.release}


def simulate(
    jobs: Iterable[TraceJob], nodes: Sequence[str], policy: Policy, world: World, until_s: float
) -> tuple[History, Snapshot | None]:
    """What the simulator makes of it, up to then."""
    observer = Observer(until_s=until_s)
    trace = list(jobs)
    cluster = tuple(Node(name=name, gpus=NODE_GPUS) for name in nodes)
    simulation = Simulation(
        nodes=cluster, queues=policy.queues, settings=policy.settings, world=world, observe=observer.look
    )
    try:
        simulation.run(trace)
    except Stopped:
        pass
    else:
        observer.history.runs += [(job, start_s, until_s) for job, start_s in observer._open.items()]
    observer.history.submits = {job.id: float(job.submit_s) for job in trace if job.submit_s <= until_s}
    return observer.history, observer.left


def the_day(folder: Path, nodes: int, *, hours: float, scale: float) -> Load:
    """The busiest day's first hours, with what runs or waits at its beginning; on fewer nodes every n-th job."""
    with (folder / "philly_vc_quota.csv").open() as file:
        whole = {row["vc"]: int(row["micro_gpus"]) for row in csv.DictReader(file)}
    quotas = {queue: gpus * nodes // WEEK_NODES for queue, gpus in whole.items()}
    week = sorted(formats.read(folder / "philly_micro_week.csv", "philly"), key=lambda job: job.submit_s)
    week = [job for job in week if job.gpus <= nodes * NODE_GPUS][:: WEEK_NODES // nodes]
    days = Counter(job.submit_s // DAY_S for job in week if job.submit_s > 0)
    begin_s = DAY_S * max(days, key=lambda day: (days[day], -day))
    load = Load(jobs=(), quotas=quotas, nodes=nodes, lasts_s=hours * 3600 / scale)
    before = [job for job in week if job.submit_s < begin_s]
    policy = parse_policy(load.policy(), "policy").as_model(1)
    history, left = simulate(before, _names(nodes), policy, World(), begin_s)
    worked: Counter[str] = Counter()
    for job, start_s, end_s in history.runs:
        worked[job] += round(end_s - start_s)
    there = {job.id: job for job in left.jobs} if left else {}
    by_id = {job.id: job for job in before}
    old = sorted(there.values(), key=lambda job: (job.state is not JobState.RUNNING, job.submitted_s))
    jobs = [
        replace(by_id[job.id], submit_s=0.0, duration_s=max(60.0, by_id[job.id].duration_s - worked[job.id]))
        for job in old
    ]
    jobs += [
        replace(job, submit_s=job.submit_s - begin_s)
        for job in week
        if begin_s <= job.submit_s < begin_s + hours * 3600
    ]
    scaled = [replace(job, submit_s=job.submit_s / scale, duration_s=job.duration_s / scale) for job in jobs]
    return replace(load, jobs=tuple(scaled))


def together(submits: Mapping[str, float], cycle_s: float) -> dict[str, float]:
    """Submissions as slurmextd sees them: what comes while it is in a cycle is seen by the next one."""
    found: dict[str, float] = {}
    cycle_at_s = -cycle_s
    for job, at_s in sorted(submits.items(), key=lambda item: item[1]):
        if at_s > cycle_at_s:
            cycle_at_s = max(at_s, cycle_at_s + cycle_s)
        found[job] = cycle_at_s
    return found


def predict(load: Load, constants: Constants, submits: Mapping[str, float], jitter: random.Random | None) -> History:
    """The simulator's version, its times those of the jobs' scripts."""
    around_s = constants.gap_s
    submitted, submits = submits, together(submits, constants.cycle_s * (jitter.uniform(0.5, 2) if jitter else 1))
    jobs = [
        replace(
            job,
            submit_s=submits[job.id] + (jitter.uniform(0, JITTER_S) if jitter and job.submit_s else 0.0),
            duration_s=job.duration_s + around_s,
        )
        for job in load.jobs
        if job.id in submits
    ]
    world = World(
        save_s=constants.reclaim_s,
        restart_s=around_s,
        checkpoint_every_s=None,
        requeue_delay_s=max(0.0, constants.requeue_s - constants.start_s),
    )
    policy = parse_policy(load.policy(), "policy").as_model(1)
    names = _names(load.nodes)
    if jitter:
        jitter.shuffle(names)
    history, _ = simulate(jobs, names, policy, world, load.lasts_s)
    history.submits = dict(submitted)
    after_s = max(0.0, constants.gap_s - constants.start_s)
    history.runs = [
        (job, start_s + constants.start_s, max(start_s + constants.start_s, end_s - after_s))
        for job, start_s, end_s in history.runs
        if start_s + constants.start_s <= load.lasts_s
    ]
    return history


def agreement(one: History, other: History, load: Load) -> dict[str, float]:
    """How far two histories are apart."""
    mine, theirs = one.starts(), other.starts()
    both = mine.keys() & theirs.keys()
    apart = sorted(abs(mine[job] - theirs[job]) for job in both)
    gpus = {job.id: job.gpus for job in load.jobs}
    all_gpus = load.nodes * NODE_GPUS * load.lasts_s

    def util(history: History) -> float:
        return sum(gpus[job] * (end_s - start_s) for job, start_s, end_s in history.runs) / all_gpus

    return {
        "start_diff_s_p50": round(percentile(apart, 0.5), 2),
        "start_diff_s_p95": round(percentile(apart, 0.95), 2),
        "evictions_live": one.evictions,
        "evictions_sim": other.evictions,
        "wait_mean_live_s": round(statistics.fmean(one.waits(load.lasts_s)), 2),
        "wait_mean_sim_s": round(statistics.fmean(other.waits(load.lasts_s)), 2),
        "util_live": round(util(one), 4),
        "util_sim": round(util(other), 4),
        "disagree_pct": round(100 * len(mine.keys() ^ theirs.keys()) / max(1, len(mine.keys() | theirs.keys())), 2),
    }


def in_use(history: History, load: Load, step_s: float) -> tuple[list[float], list[int]]:
    """GPUs at work over time."""
    gpus = {job.id: job.gpus for job in load.jobs}
    changes = sorted(
        change
        for job, start_s, end_s in history.runs
        for change in ((start_s, gpus[job]), (end_s, -gpus[job]))
    )  # fmt: skip
    times = [number * step_s for number in range(int(load.lasts_s / step_s) + 1)]
    used, at, found = 0, 0, []
    for time_s in times:
        while at < len(changes) and changes[at][0] <= time_s:
            used += changes[at][1]
            at += 1
        found.append(used)
    return times, found


def waiting(history: History, times: Sequence[float]) -> list[int]:
    """Jobs that were submitted and did not run before, over time."""
    starts = history.starts()
    return [
        sum(at_s <= time_s < starts.get(job, float("inf")) for job, at_s in history.submits.items())
        for time_s in times
    ]  # fmt: skip


def draw(path: Path, load: Load, live: History, simulated: History) -> None:
    """Both histories over time."""
    try:
        import matplotlib as mpl
    except ImportError:
        print(f"no matplotlib, so no {path.name}: pip install 'slurmext[plot]'", file=sys.stderr)
        return

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (axes, below) = plt.subplots(2, figsize=(9, 5), sharex=True, layout="constrained")
    for history, label, style in ((live, "on Slurm", "-"), (simulated, "simulated", "--")):
        times, used = in_use(history, load, max(0.5, load.lasts_s / 1000))
        axes.step([time_s / 60 for time_s in times], used, style, where="post", label=label, linewidth=1.2)
        below.step([time_s / 60 for time_s in times], waiting(history, times), style, where="post", linewidth=1.2)
    axes.axhline(load.nodes * NODE_GPUS, color="0.7", linewidth=0.8)
    axes.set(ylabel="GPUs at work", ylim=(0, None), xlim=(0, load.lasts_s / 60))
    axes.legend(loc="lower right")
    below.set(xlabel="minutes", ylabel="jobs that never ran yet", ylim=(0, None))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> int:
    """Run, simulate, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="4 nodes, three hours in 36 seconds")
    size.add_argument("--medium", action="store_true", help="8 nodes, five hours in 5 minutes")
    parser.add_argument("--nodes", type=int, choices=(4, 8, 16, 32), help="nodes with 8 GPUs")
    parser.add_argument("--hours", type=float, help="hours of the trace")
    parser.add_argument("--scale", type=float, help="so many times faster")
    parser.add_argument("--traces", type=Path, help="where the traces are")
    parser.add_argument("--plot", type=Path, help="the picture [docs/img/bench-live-day.png; quick: none]")
    options = parser.parse_args()
    nodes, hours, scale = (4, 3.0, 300.0) if options.quick else (8, 5.0, 60.0) if options.medium else (32, 24.0, 60.0)
    folder = options.traces or Path(os.environ.get("SLURMEXT_TRACES", "../shared/data/traces"))
    if not (folder / "philly_micro_week.csv").exists():
        print(f"no traces in {folder}: name their folder with --traces or SLURMEXT_TRACES", file=sys.stderr)
        print(json.dumps({"skipped": f"no traces in {folder}"}))
        return 0
    nodes, hours, scale = options.nodes or nodes, options.hours or hours, options.scale or scale
    load = the_day(folder, nodes, hours=hours, scale=scale)
    began = sum(job.submit_s == 0 for job in load.jobs)
    print(
        f"{len(load.jobs)} jobs ({began} there at the beginning), {nodes} nodes x {NODE_GPUS} GPUs, {len(load.quotas)} "
        f"queues, {hours:g} hours at 1:{scale:g}", flush=True,
    )  # fmt: skip
    live = Live(load, f"bench-l-{os.getpid()}")
    with live.cluster as cluster:
        constants = live.calibrate(1 if options.quick else 3)
        print(
            f"this cluster: a job starts in {constants.start_s:.2f} s, {constants.gap_s:.2f} s between two jobs, a victim "
            f"goes in {constants.reclaim_s:.2f} s and starts again after {constants.requeue_s:.2f} s; a cycle takes "
            f"{constants.cycle_s:.2f} s", flush=True,
        )  # fmt: skip
        happened = live.run()
        spent = {name.partition("@")[0]: _spent(cluster, name.partition("@")[0]) for name in cluster.status()}
        laws = json.loads(live.slurmext("daemon", "status", "--json"))["invariants"]
        events = json.loads(live.slurmext("history", "--kind", "invariant", "--json"))
        broken = [row["message"] for row in events]
    expected = predict(load, constants, happened.submits, None)
    repeats = [predict(load, constants, happened.submits, random.Random(seed)) for seed in range(REPEATS)]
    figures = compare(load, happened, expected, repeats)
    print(
        "\nCPU seconds (and MiB of memory): "
        + ", ".join(f"{name} {cpu:.0f} ({mib:.0f})" for name, (cpu, mib) in spent.items())
    )
    print(f"invariant monitor: {laws['broken']} broken in {laws['checked']} cycles, {laws['mean_ms']} ms each")
    print("\n".join(broken[:20]))
    picture = options.plot or (None if options.quick else PICTURE)
    if picture is not None:
        draw(picture, load, happened, expected)
    print("Contains data from the Microsoft Philly traces (CC-BY-4.0); sampled and scaled as described.")
    print(json.dumps({"jobs": len(load.jobs), **figures, "broken_laws": laws["broken"]}))
    return 0


def compare(load: Load, live: History, simulated: History, repeats: Sequence[History]) -> dict[str, object]:
    """Print both side by side, with what repeats of the simulation give; returns the figures."""
    figures: dict[str, object] = {**agreement(live, simulated, load)}
    others = [agreement(simulated, repeat, load) for repeat in repeats]
    print(f"\n{'':<24}{'on Slurm':>10}{'simulated':>11}   repeated")
    print(f"{'jobs started':<24}{len(live.starts()):>10}{len(simulated.starts()):>11}")
    for title, key, mine in (
        ("evictions", "evictions", "evictions_live"),
        ("mean wait, s", "wait_mean", "wait_mean_live_s"),
        ("utilisation", "util", "util_live"),
    ):
        theirs = mine.replace("live", "sim")
        values = sorted(other[theirs] for other in others)
        figures[f"{key}_range"] = [values[0], values[-1]]
        print(f"{title:<24}{figures[mine]:>10}{figures[theirs]:>11}   {values[0]} to {values[-1]}")
    for title, key in (("starts apart, median s", "start_diff_s_p50"), ("starts apart, p95 s", "start_diff_s_p95"),
                       ("started in one alone, %", "disagree_pct")):  # fmt: skip
        values = sorted(other[key] for other in others)
        figures[f"repeat_{key}"] = statistics.median(values)
        print(f"{title:<24}{'':>10}{figures[key]:>11}   {values[0]} to {values[-1]}")
    return figures


def _spent(cluster: Devcluster, kind: str) -> tuple[float, float]:
    """CPU seconds and resident MiB of the components of a kind."""
    cpu_s = mib = 0.0
    for name, pid in cluster.status().items():
        if name.partition("@")[0] == kind and pid:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            cpu_s += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            mib += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return cpu_s, mib


def _names(count: int) -> list[str]:
    return [f"n{number}" for number in range(1, count + 1)]


if __name__ == "__main__":
    sys.exit(main())
