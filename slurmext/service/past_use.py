"""What queues borrowed lately: a mean over time in which what was a half-life ago counts half. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from slurmext.model.job import JobState
from slurmext.model.snapshot import Snapshot
from slurmext.model.state import PastUse
from slurmext.policy.tree import queue_tree

FORGOTTEN = 0.01
"""GPUs. A queue that borrowed less on average is as good as new."""
_HOLDING = frozenset({JobState.RUNNING, JobState.COMPLETING, JobState.SUSPENDED})


def borrowed(snapshot: Snapshot) -> Mapping[str, int]:
    """GPUs that every queue uses beyond its guarantee now, by path."""
    tree = queue_tree(snapshot)
    used = [0] * len(tree.nodes)
    for job in snapshot.jobs:
        leaf = tree.leaf_of.get(job.queue)
        if leaf is not None and job.state in _HOLDING:
            for index in tree.nodes[leaf].lineage:
                used[index] += job.placed_gpus
    return {path: max(0, used[index] - tree.nodes[index].guaranteed) for path, index in tree.by_path.items()}


def brought_up(known: Iterable[PastUse], now: Mapping[str, int], now_s: float, half_life_s: float) -> list[PastUse]:
    """Past use at `now_s` when queues borrowed `now` GPUs since it was last brought up. Units: GPUs, seconds."""
    before = {use.queue: use for use in known}
    found: list[PastUse] = []
    for queue in sorted({*before, *now}):
        last = before.get(queue)
        weight = 0.5 ** (max(0.0, now_s - last.at_s) / half_life_s) if last else 1.0
        gpus = weight * (last.gpus if last else 0.0) + (1 - weight) * now.get(queue, 0)
        if gpus >= FORGOTTEN or now.get(queue, 0):
            found.append(PastUse(queue=queue, gpus=gpus, at_s=now_s))
    return found
