"""Nodes on which a waiting job of slices is likely to start: where its slices are reserved or held, else where some of
a GPU that it could have a part of is free first when running jobs use their whole time limit.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from slurmext.model.job import JobState
from slurmext.model.node import NodeState
from slurmext.model.slicing import GpuUse, HoldPlaces, SlicedGpu, SliceJob, SliceSnapshot


def likely_for_slices(
    job: SliceJob, snapshot: SliceSnapshot, holds: Sequence[HoldPlaces], *, warm: Collection[str], ahead_s: float
) -> tuple[str, ...]:
    """As many nodes as the job needs; fewer, or none, when nothing is free within `ahead_s` there."""
    if job.places:
        return tuple(sorted({place.node for place in job.places}))
    held = next((hold.places for hold in holds if hold.job == job.id), ())
    first = sorted({place.node for place in held})
    free_s = _free_times(job, snapshot)
    ranked = sorted(
        (at_s > 0.0, node not in warm, at_s, node)
        for node, at_s in free_s.items()
        if node not in first and (node in warm or at_s <= ahead_s)
    )
    return (*first, *(node for *_, node in ranked))[: max(1, job.need.nodes)]


def _free_times(job: SliceJob, snapshot: SliceSnapshot) -> dict[str, float]:
    """Seconds until some part of a GPU may be free, by node that has one for the job."""
    found = dict[str, float]()
    running = [other for other in snapshot.jobs if other.state is not JobState.PENDING]
    up = {node.name: node for node in snapshot.nodes if node.state is NodeState.UP}
    for card in snapshot.gpus:
        node = up.get(card.node)
        if node is None or (job.candidates and card.node not in job.candidates) or not _suits(job, card):
            continue
        ends = [_left_s(other, snapshot) for other in running if any(place.gpu == card.uuid for place in other.places)]
        cut = card.use in {GpuUse.MIG, GpuUse.SHARED}
        at_s = min(ends, default=0.0) if cut else 0.0 if node.idle_gpus.get(card.gpu_type) else math.inf
        found[card.node] = min(at_s, found.get(card.node, math.inf))
    return found


def _suits(job: SliceJob, card: SlicedGpu) -> bool:
    if job.types and card.gpu_type not in job.types:
        return False
    if job.need.profile is not None:
        return card.geometry is not None and card.geometry.profile(job.need.profile) is not None
    return card.memory_mib >= (job.need.memory_mib or 0)


def _left_s(job: SliceJob, snapshot: SliceSnapshot) -> float:
    if job.time_limit_s is None:
        return math.inf
    began_s = snapshot.now_s if job.started_s is None else job.started_s
    return max(1.0, float(began_s) + float(job.time_limit_s) - float(snapshot.now_s))
