"""How long planning takes on large clusters: `python tests/benchmarks/bench_plan.py [--quick]`.

Nothing but the planner runs: snapshots are made in memory. Times are the fastest of a few runs, memory is the peak of
this process. The last line is JSON: `full_cycle_s` (4,000 jobs of an unguaranteed queue run on 500 nodes x 8 GPUs, the
owner of all those GPUs asks for them with 4,000 jobs), `unschedulable_s` (the same cluster, full of jobs that may not
leave: an 80-GPU gang cannot be placed), `whole_cycle_s` (10,000 nodes, 100,000 jobs, 1,000 queues, 100 jobs ended and
100 came since the last plan), and how time grows: `exponent_jobs`, `exponent_nodes` (1 is linear).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import time

from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot
from slurmext.policy.planner import plan

NOW_S = 100_000.0
GPUS_PER_NODE = 8


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
    sizes = [count // shrink for count in (500, 1000, 2000, 4000)]
    by_jobs = [timed(all_reclaimed(500 // shrink, count), runs)[0] for count in sizes]
    figures["exponent_jobs"] = exponent(sizes, by_jobs)
    sizes = [count // shrink for count in (500, 1000, 2000, 4000)]
    by_nodes = [timed(all_reclaimed(count, 500 // shrink), runs)[0] for count in sizes]
    figures["exponent_nodes"] = exponent(sizes, by_nodes)
    print(f"time grows with pending jobs ^ {figures['exponent_jobs']:.2f}, nodes ^ {figures['exponent_nodes']:.2f}")
    figures["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({key: round(value, 4) for key, value in figures.items()} | {"quick": quick}))


if __name__ == "__main__":
    main()
