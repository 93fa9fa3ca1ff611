"""Real traces replayed side by side: `python tests/benchmarks/bench_traces.py [--quick] [--only NAME] [--traces DIR]`.

Microsoft Philly (Jeon et al., USENIX ATC'19; CC-BY-4.0; https://github.com/msr-fiddle/philly-traces) with its virtual
clusters as queues: October and November 2017 with 0.55 and 0.7 of the nodes (its load is 0.47 of them), and a week of
a sample for 32 nodes. Four ways: static partitions, one pool first come first served with backfill, Slurm's preempt/qos
(a pair of QOS for each queue, the newest low jobs are killed), and slurmext with each queue's share guaranteed and
everything idle lent. Victims of slurmext save for 20 s on their signal and lose nothing; those of QOS preemption go
back to their last hourly checkpoint, and so do those of the fifth row, slurmext with jobs that cannot save; a restart
costs all of them 30 s. It is the daemon's own planner; in the two months, while jobs wait, it plans once a
minute and when a victim has left.

DIR (or SLURMEXT_TRACES, or ../shared/data/traces) has philly_micro_week.csv, philly_jobs.csv.gz and philly_vc_quota.csv.
`--quick` replays two busy days of the months, in under a minute. Pictures go to docs/img. The last line is JSON: philly_055,
philly_070 and micro_week, each `{static, pool, qos, slurmext, slurmext_unsaved}` -> `{util, wait_mean_s, wait_p95_s,
wait_gpu_mean_s, lost_gpu_h, evictions, longest_reclaim_s, breaches, fairness, took_s}`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from slurmext.errors import SlurmextError
from slurmext.model.node import Node
from slurmext.model.plan import Plan
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Settings, Snapshot
from slurmext.simulate import formats
from slurmext.simulate.plot import draw
from slurmext.simulate.report import Report
from slurmext.simulate.whatif import Question, answer
from slurmext.simulate.workload import TraceJob
from slurmext.simulate.world import World

GPUS_PER_NODE = 8
DAY_S = 86400.0
OCT_NOV = (48 * DAY_S, 109 * DAY_S)
"""October and November 2017 in the trace's own seconds, which start on August 14."""
QUICK_DAYS = (9, 11)
"""Two busy days of these months."""
WAYS = ("static", "pool", "qos", "slurmext", "slurmext_unsaved")
NAMES = ("micro_week", "philly_070", "philly_055")
FILES = ("philly_micro_week.csv", "philly_jobs.csv.gz", "philly_vc_quota.csv")
IMAGES = Path(__file__).resolve().parents[2] / "docs" / "img"
ATTRIBUTION = "Contains data from the Microsoft Philly traces (CC-BY-4.0); sampled and scaled as described."
HEAD = f"{'':<18}{'util':>6}{'wait mean':>11}{'wait p95':>10}{'per GPU':>10}{'evictions':>11}{'lost GPU h':>12}{'reclaim':>9}{'late':>7}{'fair':>7}{'took':>9}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A trace as queues with GPUs, and jobs. `tick_s`: how often is planned."""

    name: str
    jobs: list[TraceJob]
    quotas: dict[str, int]
    tick_s: float


def main() -> int:
    """Replay, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two days of the months, in under a minute")
    parser.add_argument("--only", choices=NAMES, action="append", help="this trace alone")
    parser.add_argument("--traces", type=Path, help="where the traces are")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="replays at a time")
    options = parser.parse_args()
    folder = options.traces or Path(os.environ.get("SLURMEXT_TRACES", "../shared/data/traces"))
    missing = [name for name in FILES if not (folder / name).exists()]
    if missing:
        print(
            f"not measured: no {missing[0]} in {folder}. The traces are those of https://github.com/msr-fiddle/philly-traces"
            " (jobs, virtual clusters) as https://github.com/TuftsNATLab/PCS rebuilt them, the quotas those of "
            "https://github.com/S-Lab-System-Group/HeliosArtifact. Name their folder with --traces or SLURMEXT_TRACES.",
            file=sys.stderr,
        )
        print(json.dumps({"skipped": f"no {missing[0]} in {folder}"}))
        return 1
    found: dict[str, dict[str, dict[str, float]]] = {}
    with ProcessPoolExecutor(max_workers=options.processes) as pool:
        for load in loads(folder, options.only or NAMES, quick=options.quick):
            reports = replay(load, pool)
            found[load.name] = {way: figures(*made) for way, made in reports.items()}
            if not options.quick:
                picture(load, {way: made for way, (made, _) in reports.items()})
    print(f"\n{ATTRIBUTION}")
    print(json.dumps(found))
    return 0


def loads(folder: Path, names: tuple[str, ...], *, quick: bool) -> list[Load]:
    """The traces that are asked for."""
    with (folder / "philly_vc_quota.csv").open() as file:
        rows = list(csv.DictReader(file))
    found: list[Load] = []
    if "micro_week" in names:
        quotas = {row["vc"]: int(row["micro_gpus"]) for row in rows}
        found.append(Load(name="micro_week", jobs=formats.read(folder / FILES[0], "philly"), quotas=quotas, tick_s=0.0))
    wanted = [(name, scale) for name, scale in (("philly_070", 0.7), ("philly_055", 0.55)) if name in names]
    first, last = (OCT_NOV[0] + day * DAY_S for day in QUICK_DAYS) if quick else OCT_NOV
    months = [
        replace(job, submit_s=job.submit_s - first)
        for job in (formats.read(folder / FILES[1], "philly") if wanted else ())
        if first <= job.submit_s < last
    ]
    for name, scale in wanted:
        quotas = {row["vc"]: max(1, round(int(row["nodes"]) * scale)) * GPUS_PER_NODE for row in rows}
        found.append(Load(name=name, jobs=[job for job in months if job.queue in quotas], quotas=quotas, tick_s=60.0))
    return found


def replay(load: Load, pool: ProcessPoolExecutor) -> dict[str, tuple[Report, float]]:
    """The report of each way and the CPU seconds it took, printed as they come."""
    gpus = sum(load.quotas.values())
    print(
        f"\n{load.name}: {len(load.jobs)} jobs, {gpus // GPUS_PER_NODE} nodes x {GPUS_PER_NODE} GPUs, {len(load.quotas)} queues"
    )
    print(HEAD, flush=True)
    running = {way: pool.submit(one_way, load, way) for way in WAYS}
    found: dict[str, tuple[Report, float]] = {}
    for way, future in running.items():
        made, took_s = found[way] = future.result()
        print(
            f"{way.replace('_', ', '):<18}{made.util:6.3f}{made.wait_mean_s:11,.0f}{made.wait_p95_s:10,.0f}{made.wait_gpu_mean_s:10,.0f}{made.evictions:11,d}"
            f"{made.lost_gpu_h:12,.1f}{made.longest_reclaim_s:7.0f} s{made.breaches:7,d}{made.fairness:7.3f}{took_s:7.0f} s",
            flush=True,
        )
    return found


def one_way(load: Load, way: str) -> tuple[Report, float]:
    """The report of one way, and the CPU seconds it took; its progress goes to standard error."""
    started, spent = time.monotonic(), time.process_time()
    said = started

    def look(snapshot: Snapshot, made: Plan) -> None:
        nonlocal said
        if time.monotonic() - said > 20:
            said = time.monotonic()
            days = load.jobs[-1].submit_s / DAY_S
            print(
                f"  {load.name} {way}: day {snapshot.now_s / DAY_S:.1f} of {days:.1f}, {len(made.reasons)} waiting, "
                f"{said - started:.0f} s",
                file=sys.stderr,
                flush=True,
            )

    gpus = sum(load.quotas.values())
    nodes = tuple(Node(name=f"n{number:04}", gpus=GPUS_PER_NODE) for number in range(gpus // GPUS_PER_NODE))
    queues = tuple(Queue(path=path, guaranteed=quota) for path, quota in load.quotas.items())
    world = World(tick_s=load.tick_s, saves=way != "slurmext_unsaved", requeue_delay_s=3)
    question = Question(nodes=nodes, jobs=load.jobs, world=world)
    made = answer(question, queues, Settings(), way=way.partition("_")[0], observe=look)
    return made, time.process_time() - spent


def figures(made: Report, took_s: float) -> dict[str, float]:
    """What the last line has of it."""
    return {
        "util": round(made.util, 3),
        "wait_mean_s": round(made.wait_mean_s),
        "wait_p95_s": round(made.wait_p95_s),
        "wait_gpu_mean_s": round(made.wait_gpu_mean_s),
        "lost_gpu_h": round(made.lost_gpu_h, 1),
        "evictions": made.evictions,
        "longest_reclaim_s": round(made.longest_reclaim_s),
        "breaches": made.breaches,
        "fairness": round(made.fairness, 3),
        "took_s": round(took_s),
    }


def picture(load: Load, reports: dict[str, Report]) -> None:
    """docs/img/bench-traces-NAME.png; without matplotlib there is none."""
    shown = {way: reports[way] for way in ("slurmext", "static", "pool", "qos")}
    try:
        IMAGES.mkdir(exist_ok=True)
        path = IMAGES / f"bench-traces-{load.name}.png"
        draw(path, shown, title=f"Microsoft Philly, {load.name}: {len(load.jobs):,} jobs", dpi=80)
    except (OSError, SlurmextError) as error:
        print(f"no picture of {load.name}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
