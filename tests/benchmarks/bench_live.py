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
import json
import os
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from live.cluster import Live, spent
from live.history import History, agreement, draw
from live.load import NODE_GPUS, Load
from live.simulated import REPEATS, predict, the_day

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "img" / "bench-live-day.png"


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
        use = {name.partition("@")[0]: spent(cluster, name.partition("@")[0]) for name in cluster.status()}
        laws = json.loads(live.slurmext("daemon", "status", "--json"))["invariants"]
        events = json.loads(live.slurmext("history", "--kind", "invariant", "--json"))
        broken = [row["message"] for row in events]
    expected = predict(load, constants, happened.submits, None)
    repeats = [predict(load, constants, happened.submits, random.Random(seed)) for seed in range(REPEATS)]
    figures = compare(load, happened, expected, repeats)
    print(
        "\nCPU seconds (and MiB of memory): "
        + ", ".join(f"{name} {cpu:.0f} ({mib:.0f})" for name, (cpu, mib) in use.items())
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


if __name__ == "__main__":
    sys.exit(main())
