"""A set of victims made as small as it can be."""

from __future__ import annotations

from collections.abc import Callable

from slurmext.policy.herd import Herd, Need, Victims, freed_inside
from slurmext.policy.victims import take_tasks


def minimal(herd: Herd, taken: Victims, need: Need, accept: Callable[[Victims], bool]) -> Victims:
    """Leave out whoever can be left out, the most expensive first, then single tasks of shrinking jobs."""
    if len(taken) == 1 and all(t.whole or t.tasks == 1 for t in taken.values()) and not need.inside:
        return taken
    free = herd.supply.soon.copy()
    for taking in taken.values():
        free.add(herd.usable(taking))

    def enough(smaller: Victims) -> bool:
        return (
            free.capacity(need.size, need.mask, need.per_node, need.tasks) >= need.tasks
            and all(freed_inside(smaller, queue) >= gpus for queue, gpus in need.inside)
            and accept(smaller)
        )

    for job_id, taking in sorted(taken.items(), key=lambda item: (item[1].cost, item[0]), reverse=True):
        free.add(herd.usable(taking), sign=-1)
        smaller = {other: kept for other, kept in taken.items() if other != job_id}
        if enough(smaller):
            taken = smaller
        else:
            free.add(herd.usable(taking))
    for job_id, taking in sorted(taken.items()):
        if taking.whole:
            continue
        on_node = {index: gpus // taking.victim.task_gpus for index, gpus in taking.parts}
        for index in sorted(on_node):
            while on_node[index] and sum(on_node.values()) > 1:
                on_node[index] -= 1
                free.add([(index, -taking.victim.task_gpus)] if herd.nodes.usable >> index & 1 else [])
                smaller = {**taken, job_id: take_tasks(taking.victim, on_node, herd.nodes)}
                if not enough(smaller):
                    on_node[index] += 1
                    free.add([(index, taking.victim.task_gpus)] if herd.nodes.usable >> index & 1 else [])
                    break
                taken = smaller
    return taken


def from_the_end(herd: Herd, taken: Victims, need: Need) -> Victims:
    """Let shrinking jobs lose the tasks on the last nodes they were given, where that makes room as well.

    The first node runs a batch job's script, and whoever reads a plan need not guess which nodes are left.
    """
    for job_id, taking in sorted(taken.items()):
        if taking.whole:
            continue
        size, before, left = taking.victim.task_gpus, herd.shrunk.get(job_id, {}), taking.tasks
        last: dict[int, int] = {}
        for index, gpus in reversed(taking.victim.parts):
            last[index] = min(left, gpus // size - before.get(index, 0))
            left -= last[index]
        other = take_tasks(taking.victim, last, herd.nodes)
        free = herd.supply.soon.copy()
        for share in {**taken, job_id: other}.values():
            free.add(herd.usable(share))
        if free.capacity(need.size, need.mask, need.per_node, need.tasks) >= need.tasks:
            taken = {**taken, job_id: other}
    return taken
