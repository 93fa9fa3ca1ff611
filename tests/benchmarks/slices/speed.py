"""How fast slices are planned: 10,000 GPUs with half of their units in use."""

from __future__ import annotations

import random
import time
from dataclasses import replace

from slurmext.model.job import JobState
from slurmext.model.queue import Queue
from slurmext.model.slicing import SlicedGpu, SliceJob, SliceNeed, SliceNode, SlicePlan, SliceSnapshot
from slurmext.policy.slicing import plan_slices
from slurmext.testing.slice_world import step
from slurmext.testing.slicing import gpus

PROFILES = ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")
PER_NODE = 8


def site(gpu_count: int, waiting: int) -> SliceSnapshot:
    """Nodes with 8 H100s cut for as many jobs as there are GPUs, and `waiting` jobs of 20 queues."""
    rng = random.Random(7)
    names = [f"n{number:05}" for number in range(gpu_count // PER_NODE)]
    blank = gpus("", "h100", 1)[0]
    cards: tuple[SlicedGpu, ...] = tuple(
        replace(blank, node=name, uuid=f"{name}-{minor}", minor=minor) for name in names for minor in range(PER_NODE)
    )
    empty = SliceSnapshot(
        now_s=1000,
        nodes=tuple(SliceNode(name=name, free_cpus=192) for name in names),
        gpus=cards,
        queues=tuple(Queue(path=f"org/team{number}", guaranteed=gpu_count // 40) for number in range(20)),
        jobs=tuple(_job(rng, f"r{number}") for number in range(gpu_count)),
    )
    busy = step(empty, plan_slices(empty))
    jobs = tuple(job for job in busy.jobs if job.state is JobState.RUNNING)
    return replace(busy, jobs=(*jobs, *(_job(rng, f"p{number}") for number in range(waiting))))


def _job(rng: random.Random, number: str) -> SliceJob:
    return SliceJob(
        id=number,
        queue=f"org/team{rng.randrange(20)}",
        need=SliceNeed(profile=rng.choices(PROFILES, (6, 2, 4, 2, 1, 1))[0]),
        submitted_s=990,
        cpus=rng.choice((2, 4, 8)),
    )


def timed(snapshot: SliceSnapshot, runs: int) -> tuple[float, SlicePlan]:
    """Seconds of the fastest of some plans, and the plan."""
    best, made = float("inf"), SlicePlan()
    for _ in range(runs):
        started = time.perf_counter()
        made = plan_slices(snapshot)
        best = min(best, time.perf_counter() - started)
    return best, made
