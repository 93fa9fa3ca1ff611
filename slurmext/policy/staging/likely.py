"""Nodes on which a waiting job is likely to start, so that its models can be there before it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

from slurmext.model.job import HOLDING, Job
from slurmext.model.node import Node, NodeState
from slurmext.model.snapshot import Snapshot


def nodes_needed(job: Job, nodes: Iterable[Node]) -> int:
    """On how many nodes the job runs, as far as its tasks and the largest node say."""
    largest = max((node.gpus for node in nodes), default=1)
    per_node = max(1, largest // max(1, job.gpus_per_task))
    if job.tasks_per_node is not None:
        per_node = min(per_node, job.tasks_per_node)
    return max(1, math.ceil(job.tasks / per_node))


def likely_nodes(
    job: Job, snapshot: Snapshot, *, planned: Collection[str], warm: Collection[str], ahead_s: float
) -> tuple[str, ...]:
    """As many nodes as the job needs: those planned for it, then those that hold its models, then those that are free
    first if running jobs use their whole time limit. None that is not free within `ahead_s`.
    """
    fit = [
        node
        for node in snapshot.nodes
        if node.state is NodeState.UP and node.gpus >= max(1, job.gpus_per_task)
        and (not job.types or node.gpu_type in job.types)
    ]  # fmt: skip
    free_s = _free_times(snapshot)
    wanted = nodes_needed(job, fit)
    ranked = sorted(
        (free_s.get(node.name, 0.0) > 0.0, node.name not in warm, free_s.get(node.name, 0.0), node.name)
        for node in fit
        if node.name in warm or free_s.get(node.name, 0.0) <= ahead_s
    )
    first = [name for name in sorted(planned) if any(node.name == name for node in fit)]
    rest = [name for *_, name in ranked if name not in first]
    return tuple([*first, *rest][:wanted])


def _free_times(snapshot: Snapshot) -> dict[str, float]:
    """Seconds until the last job leaves a node, when each uses its whole time limit; infinite for one without."""
    last = dict[str, float]()
    for job in snapshot.jobs:
        if job.state not in HOLDING:
            continue
        if job.evicting_for is not None or job.time_limit_s is None:
            left_s = 1.0 if job.evicting_for is not None else math.inf
        else:
            began_s = float(snapshot.now_s if job.started_s is None else job.started_s)
            left_s = max(1.0, began_s + float(job.time_limit_s) - float(snapshot.now_s))
        for part in job.placement:
            last[part.node] = max(last.get(part.node, 0.0), left_s)
    return last
