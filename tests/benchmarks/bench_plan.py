"""How long planning takes on large clusters: `python tests/benchmarks/bench_plan.py [--quick]`.

Nothing but the planner runs: snapshots are made in memory. Times are the fastest of a few runs, memory is the peak of
this process. The last line is JSON: `full_cycle_s` (4,000 jobs of an unguaranteed queue run on 500 nodes x 8 GPUs, the
owner of all those GPUs asks for them with 4,000 jobs), `unschedulable_s` (the same cluster, full of jobs that may not
leave: an 80-GPU gang cannot be placed), `whole_cycle_s` (10,000 nodes, 100,000 jobs, 1,000 queues, counted from
nothing), `incremental_ms` (the same site cycle after cycle: 50 jobs end, 50 come and those released before run; the
median of 9 cycles of a planner that remembers the last one), and how time grows: `exponent_jobs`, `exponent_nodes`,
`exponent_queues` (1 is linear), drawn in docs/img/bench-plan-growth.png.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import resource
import statistics
import time
from dataclasses import replace
from pathlib import Path

from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.plan import Plan
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot
from slurmext.policy.planner import Planner, plan
from slurmext.simulate.plot import need_matplotlib

NOW_S = 100_000.0
GPUS_PER_NODE = 8
PICTURE = Path(__file__).parents[2] / "docs" / "img" / "bench-plan-growth.png"
COLOURS = ("#0072b2", "#d55e00", "#009e73")


def nodes(count: int) -> tuple[Node, ...]:
    return tuple(Node(name=f"n{number:05}", gpus=GPUS_PER_NODE) for number in range(count))


def running(number: int, queue: str, *, preemptible: bool = True) -> Job:
    """A 1-GPU job on the node that its number falls on."""
    return Job(
        id=f"r{number}",
        queue=queue,
        state=JobState.RUNNING,
        preemptible=preemptible,
        started_s=NOW_S - 3600 - number % 1000,
        placement=(NodeGpus(node=f"n{number // GPUS_PER_NODE:05}", gpus=1),),
    )


def pending(number: int, queue: str, *, gpus: int = 1) -> Job:
    return Job(id=f"p{number}", queue=queue, state=JobState.PENDING, tasks=gpus, submitted_s=NOW_S - 60 + number / 1e4)


def all_reclaimed(node_count: int, waiting: int) -> Snapshot:
    """A full cluster of borrowers; the owner asks with `waiting` jobs."""
    gpus = node_count * GPUS_PER_NODE
    return Snapshot(
        now_s=NOW_S,
        nodes=nodes(node_count),
        queues=(Queue(path="owner", guaranteed=gpus), Queue(path="guests", guaranteed=0)),
        jobs=(*(running(n, "guests") for n in range(gpus)), *(pending(n, "owner") for n in range(waiting))),
    )


def no_way(node_count: int) -> Snapshot:
    """A full cluster of jobs that may not leave, and a gang."""
    gpus = node_count * GPUS_PER_NODE
    return Snapshot(
        now_s=NOW_S,
        nodes=nodes(node_count),
        queues=(Queue(path="owner", guaranteed=gpus), Queue(path="guests", guaranteed=0)),
        jobs=(*(running(n, "guests", preemptible=n % 8 != 0) for n in range(gpus)), pending_gang()),
    )


def pending_gang() -> Job:
    """Ten tasks of 8 GPUs."""
    return Job(id="gang", queue="owner", state=JobState.PENDING, tasks=10, gpus_per_task=8, submitted_s=NOW_S - 60)


def whole_site(node_count: int, job_count: int, queue_count: int, changes: int) -> Snapshot:
    """Most jobs run in `queue_count` queues, the rest wait; `changes` GPUs came free."""
    gpus = node_count * GPUS_PER_NODE
    queues = tuple(
        Queue(path=f"org{n % 10}/team{n}", guaranteed=gpus // queue_count, max=2 * gpus // queue_count)
        for n in range(queue_count)
    )
    jobs = [running(n, queues[n % queue_count].path) for n in range(changes, gpus)]
    jobs += [pending(n, queues[n % queue_count].path) for n in range(max(0, job_count - gpus))]
    return Snapshot(now_s=NOW_S, nodes=nodes(node_count), queues=queues, jobs=tuple(jobs))


def timed(snapshot: Snapshot, runs: int) -> tuple[float, str]:
    """(fastest run in seconds, what the plan does)."""
    best = math.inf
    for _ in range(runs):
        gc.collect()
        start = time.perf_counter()
        made = plan(snapshot)
        best = min(best, time.perf_counter() - start)
    return best, f"{len(made.release)} start, {len(made.evict)} leave, {len(made.reasons)} wait"


def next_cycle(snapshot: Snapshot, made: Plan, chance: random.Random, changes: int) -> Snapshot:
    """Ten seconds later: who was released runs, `changes` / 2 jobs ended and as many came."""
    placed = {release.job: release.placement for release in made.release}
    jobs = [
        replace(job, state=JobState.RUNNING, placement=placed[job.id], started_s=snapshot.now_s)
        if job.id in placed
        else job
        for job in snapshot.jobs
    ]
    ended = set(chance.sample([n for n, job in enumerate(jobs) if job.state is JobState.RUNNING], changes // 2))
    jobs = [job for n, job in enumerate(jobs) if n not in ended]
    now_s = snapshot.now_s + 10
    for n in range(changes // 2):
        queue = snapshot.queues[chance.randrange(len(snapshot.queues))].path
        jobs.append(replace(pending(0, queue), id=f"c{now_s:.0f}-{n}", submitted_s=now_s))
    return replace(snapshot, now_s=now_s, jobs=tuple(jobs))


def incremental_ms(snapshot: Snapshot, changes: int, cycles: int) -> float:
    """Median milliseconds of a cycle after `changes` changes, the first and whole one left out."""
    planner, chance, spent = Planner(), random.Random(1), list[float]()
    made = planner.plan(snapshot)
    for _ in range(cycles):
        snapshot = next_cycle(snapshot, made, chance, changes)
        gc.collect()
        start = time.perf_counter()
        made = planner.plan(snapshot)
        spent.append(time.perf_counter() - start)
    return statistics.median(spent) * 1000


def draw(curves: dict[str, tuple[list[int], list[float]]]) -> None:
    """Time over size, both logarithmic, with a line of slope 1 beside each curve."""
    figure = need_matplotlib()(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for (name, (sizes, times)), colour, mark in zip(curves.items(), COLOURS, "osD", strict=False):
        axes.loglog(sizes, times, marker=mark, color=colour, label=f"{name}: exponent {exponent(sizes, times):.2f}")
        axes.loglog(sizes, [times[0] * size / sizes[0] for size in sizes], ":", color=colour, alpha=0.5)
    axes.set(xlabel="how many", ylabel="seconds for one plan", title="Planning time (dotted: linear growth)")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)


def exponent(sizes: list[int], times: list[float]) -> float:
    """Slope of log(time) over log(size), by least squares."""
    points = [(math.log(size), math.log(spent)) for size, spent in zip(sizes, times, strict=True)]
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small clusters: seconds, for a smoke test")
    quick = parser.parse_args().quick
    runs, shrink = (1, 10) if quick else (3, 1)
    figures: dict[str, float] = {}
    for key, what, snapshot in (
        ("full_cycle_s", "everything is reclaimed", all_reclaimed(500 // shrink, 4000 // shrink)),
        ("unschedulable_s", "an 80-GPU gang cannot be placed", no_way(500 // shrink)),
        (
            "whole_cycle_s",
            "a large site",
            whole_site(10_000 // shrink, 100_000 // shrink, 1_000 // shrink, 100 // shrink),
        ),
    ):
        figures[key], made = timed(snapshot, runs)
        size = f"{len(snapshot.nodes)} nodes, {len(snapshot.jobs)} jobs, {len(snapshot.queues)} queues"
        print(f"{what:<34}{size:<42}{figures[key]:8.3f} s   {made}", flush=True)
    site = whole_site(10_000 // shrink, 100_000 // shrink, 1_000 // shrink, 100 // shrink)
    figures["incremental_ms"] = incremental_ms(site, 100 // shrink, 3 if quick else 9)
    what = f"{len(site.nodes)} nodes, {len(site.jobs)} jobs, {len(site.queues)} queues"
    print(f"{'the same, after 100 changes':<34}{what:<42}{figures['incremental_ms'] / 1000:8.3f} s", flush=True)
    del site
    sizes = [count // shrink for count in (500, 1000, 2000, 4000)]
    by_jobs = [timed(all_reclaimed(500 // shrink, count), runs)[0] for count in sizes]
    figures["exponent_jobs"] = exponent(sizes, by_jobs)
    sizes = [count // shrink for count in (500, 1000, 2000, 4000)]
    by_nodes = [timed(all_reclaimed(count, 500 // shrink), runs)[0] for count in sizes]
    figures["exponent_nodes"] = exponent(sizes, by_nodes)
    queue_counts = [count // shrink for count in (250, 500, 1000, 2000)]
    by_queues = [timed(whole_site(2000 // shrink, 20_000 // shrink, count, 100), runs)[0] for count in queue_counts]
    figures["exponent_queues"] = exponent(queue_counts, by_queues)
    print(
        f"time grows with pending jobs ^ {figures['exponent_jobs']:.2f}, nodes ^ {figures['exponent_nodes']:.2f},"
        f" queues ^ {figures['exponent_queues']:.2f}"
    )
    if not quick:
        curves = {"pending jobs": (sizes, by_jobs), "nodes": (sizes, by_nodes), "queues": (queue_counts, by_queues)}
        draw(curves)
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({key: round(value, 4) for key, value in figures.items()} | {"quick": quick}))


if __name__ == "__main__":
    main()
