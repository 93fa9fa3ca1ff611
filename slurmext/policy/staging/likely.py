"""Nodes on which waiting jobs are likely to start, so that their models can be there before them.

A guess, and cheap: jobs are taken in the order in which they wait, running jobs use their whole time limit, and each
waiting one takes the nodes that have room for it first. A wrong guess costs a transfer that was not needed.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Collection, Iterable

from slurmext.model.job import HOLDING, Job
from slurmext.model.node import Node, NodeState
from slurmext.model.snapshot import Snapshot

_EVICTED_S = 1.0


class Forecast:
    """Asked once for each waiting job, in order: what one is likely to get, the next one does not count on."""

    def __init__(self, snapshot: Snapshot, *, ahead_s: float) -> None:
        self._ahead_s = ahead_s
        self._nodes = {node.name: node for node in snapshot.nodes if node.state is NodeState.UP}
        self._leaving: dict[str, list[tuple[float, int]]] = {}
        for job in snapshot.jobs:
            if job.state in HOLDING:
                left_s = _left_s(job, float(snapshot.now_s))
                for part in job.placement:
                    self._take(part.node, left_s, part.gpus)
        waiting = {job.id: job for job in snapshot.jobs if job.state not in HOLDING}
        for fence in snapshot.fences:
            if (job := waiting.get(fence.beneficiary)) is not None:
                for part in fence.placement:
                    self._take(part.node, _limit_s(job), part.gpus)

    def likely(self, job: Job, *, planned: Collection[str], warm: Collection[str]) -> tuple[str, ...]:
        """As many nodes as the job needs: those planned for it, then those that have room now, then those that will
        have it first; of each those that hold its models before others. None that has no room within the time that
        models are brought ahead, unless it holds them.
        """
        fit = [
            node
            for node in self._nodes.values()
            if node.gpus >= max(1, job.gpus_per_task) and (not job.types or node.gpu_type in job.types)
        ]
        wanted = nodes_needed(job, fit)
        each = math.ceil(job.tasks / wanted) * job.gpus_per_task
        room_s = {node.name: self._room_s(node, each) for node in fit}
        ranked = sorted(
            (at_s > 0.0, name not in warm, at_s, name)
            for name, at_s in room_s.items()
            if name in warm or at_s <= self._ahead_s
        )
        first = [name for name in sorted(planned) if name in room_s]
        chosen = (*first, *(name for *_, name in ranked if name not in planned))[:wanted]
        starts_s = max((room_s[name] for name in chosen if name not in planned), default=0.0)
        for name in chosen:
            self._take(name, starts_s + _limit_s(job), min(each, self._nodes[name].gpus))
        return chosen

    def _take(self, node: str, until_s: float, gpus: int) -> None:
        insort(self._leaving.setdefault(node, []), (until_s, gpus))

    def _room_s(self, node: Node, gpus: int) -> float:
        """Seconds until so many GPUs of the node are free; infinite when nobody knows."""
        leaving = self._leaving.get(node.name, ())
        free = node.gpus - sum(held for _, held in leaving)
        needed = min(gpus, node.gpus)
        if free >= needed:
            return 0.0
        for left_s, held in leaving:
            free += held
            if free >= needed:
                return left_s
        return math.inf


def nodes_needed(job: Job, nodes: Iterable[Node]) -> int:
    """On how many nodes the job runs, as far as its tasks and the largest node say."""
    largest = max((node.gpus for node in nodes), default=1)
    per_node = max(1, largest // max(1, job.gpus_per_task))
    if job.tasks_per_node is not None:
        per_node = min(per_node, job.tasks_per_node)
    return max(1, math.ceil(job.tasks / per_node))


def _left_s(job: Job, now_s: float) -> float:
    if job.evicting_for is not None:
        return _EVICTED_S
    began_s = now_s if job.started_s is None else float(job.started_s)
    return max(1.0, began_s + _limit_s(job) - now_s)


def _limit_s(job: Job) -> float:
    return math.inf if job.time_limit_s is None else float(job.time_limit_s)
