"""Real traces replayed four ways: `python tests/benchmarks/bench_traces.py [--quick] [--traces DIR]`.

Microsoft Philly (Jeon et al., USENIX ATC'19; CC-BY-4.0; https://github.com/msr-fiddle/philly-traces) with its virtual
clusters as queues: static partitions, one pool first come first served with backfill, Slurm's preempt/qos (a pair of
QOS for each queue, the newest low jobs are killed), and slurmext with each queue's share guaranteed and everything idle
lent. Victims of slurmext save for 20 s on their signal; those of QOS preemption go back to their last hourly
checkpoint; a restart costs both 30 s. Nothing but the planner runs: it is the daemon's own plan().

DIR (or SLURMEXT_TRACES, or ../shared/data/traces) has philly_micro_week.csv, philly_jobs.csv.gz and philly_vc_quota.csv.
`--quick` replays two days of the micro week, `--whole` also October and November at 0.7 and 0.55 of the nodes, planned
every five minutes, which takes about an hour. The last line is JSON: micro_week (and philly_055, philly_070), each
`{static, pool, qos, slurmext}` -> `{util, wait_mean_s, wait_p95_s, lost_gpu_h, evictions, longest_reclaim_s}`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from slurmext.model.node import Node
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Settings
from slurmext.policy.planner import plan
from slurmext.simulate import formats, peers
from slurmext.simulate.engine import Planner, Simulation, World
from slurmext.simulate.report import report
from slurmext.simulate.workload import TraceJob

GPUS_PER_NODE = 8
OCT_NOV = (48 * 86400.0, 109 * 86400.0)
"""October and November 2017 in the trace's own seconds, which start on August 14."""
WAYS = ("static", "pool", "qos", "slurmext")


def main() -> int:
    """Replay, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two days of the micro week, in under a minute")
    parser.add_argument("--traces", type=Path, help="where the traces are")
    parser.add_argument("--whole", action="store_true", help="also two months of the whole cluster, in about an hour")
    options = parser.parse_args()
    folder = options.traces or Path(os.environ.get("SLURMEXT_TRACES", "../shared/data/traces"))
    if not (folder / "philly_micro_week.csv").exists():
        print(
            f"no traces in {folder}: take them from https://github.com/msr-fiddle/philly-traces and name their folder "
            "with --traces or SLURMEXT_TRACES",
            file=sys.stderr,
        )
        print(json.dumps({"skipped": f"no traces in {folder}"}))
        return 0
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, jobs, quotas, tick_s in loads(folder, whole=options.whole, quick=options.quick):
        found[name] = replay(name, jobs, quotas, tick_s)
    print("\nContains data from the Microsoft Philly traces (CC-BY-4.0); sampled and scaled as described.")
    print(json.dumps(found))
    return 0


def loads(folder: Path, *, whole: bool, quick: bool) -> list[tuple[str, list[TraceJob], dict[str, int], float]]:
    """(name, jobs, GPUs per queue, tick in seconds) of each trace."""
    with (folder / "philly_vc_quota.csv").open() as file:
        rows = list(csv.DictReader(file))
    micro = formats.read(folder / "philly_micro_week.csv", "philly")
    micro_quota = {row["vc"]: int(row["micro_gpus"]) for row in rows}
    if quick:
        return [("micro_week", [job for job in micro if job.submit_s < 2 * 86400], micro_quota, 0)]
    found = [("micro_week", micro, micro_quota, 0.0)]
    if not whole:
        return found
    first, last = OCT_NOV
    months = [
        replace(job, submit_s=job.submit_s - first)
        for job in formats.read(folder / "philly_jobs.csv.gz", "philly")
        if first <= job.submit_s < last
    ]
    for name, scale in (("philly_070", 0.7), ("philly_055", 0.55)):
        quota = {row["vc"]: max(1, round(int(row["nodes"]) * scale)) * GPUS_PER_NODE for row in rows}
        found.append((name, [job for job in months if job.queue in quota], quota, 300.0))
    return found


def replay(name: str, jobs: list[TraceJob], quotas: dict[str, int], tick_s: float) -> dict[str, dict[str, float]]:
    """Figures of each way."""
    gpus = sum(quotas.values())
    queues = tuple(Queue(path=path, guaranteed=quota) for path, quota in quotas.items())
    nodes = tuple(Node(name=f"n{number:04}", gpus=GPUS_PER_NODE) for number in range(gpus // GPUS_PER_NODE))
    print(f"\n{name}: {len(jobs)} jobs, {len(nodes)} nodes x {GPUS_PER_NODE} GPUs, {len(queues)} queues")
    print(
        f"{'':<10}{'util':>7}{'wait mean':>11}{'wait p95':>10}{'evictions':>11}{'lost GPU h':>12}{'reclaim':>9}{'took':>9}"
    )
    found: dict[str, dict[str, float]] = {}
    for way in WAYS:
        started = time.monotonic()
        planner: Planner = plan
        world, used = World(tick_s=tick_s), queues
        if way == "static":
            used = peers.static(queues)
        elif way == "pool":
            planner = peers.QosPreemption({})
        elif way == "qos":
            planner, world = peers.QosPreemption(quotas), replace(world, saves=False)
        outcome = Simulation(nodes=nodes, queues=used, settings=Settings(), world=world, planner=planner).run(jobs)
        made = report(outcome)
        longest = max((queue.longest_reclaim_s for queue in made.queues), default=0.0)
        found[way] = {
            "util": round(made.util, 3),
            "wait_mean_s": round(made.wait_mean_s),
            "wait_p95_s": round(made.wait_p95_s),
            "lost_gpu_h": round(made.lost_gpu_h, 1),
            "evictions": made.evictions,
            "longest_reclaim_s": round(longest),
        }
        print(
            f"{way:<10}{made.util:7.3f}{made.wait_mean_s:11.0f}{made.wait_p95_s:10.0f}{made.evictions:11d}"
            f"{made.lost_gpu_h:12.1f}{longest:7.0f} s{time.monotonic() - started:7.0f} s",
            flush=True,
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
