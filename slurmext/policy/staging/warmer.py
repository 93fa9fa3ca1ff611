"""A placement on nodes that hold the job's models, where those are as good in every other respect.

Only nodes that look the same to the planner are exchanged: the same type, and as many GPUs free now, soon and near. So
no job is placed worse because another has a model, and none waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from slurmext.policy.supply import NodePart, NodeTable, Supply, indices_of


def warmer(parts: Sequence[NodePart], warm: int, mask: int, supply: Supply, nodes: NodeTable) -> list[NodePart]:
    """The same placement with nodes of `warm` in place of others of `mask` that are as good."""
    taken = {index for index, _ in parts}
    found: list[NodePart] = []
    for index, gpus in parts:
        if warm >> index & 1:
            found.append((index, gpus))
            continue
        alike = indices_of(supply.now.buckets[supply.now.free[index]] & mask & warm)
        others = (other for other in alike if other not in taken and _alike(index, other, supply, nodes))
        better = next(others, index)
        taken.add(better)
        found.append((better, gpus))
    return found


def _alike(one: int, other: int, supply: Supply, nodes: NodeTable) -> bool:
    return (
        nodes.types[one] == nodes.types[other]
        and nodes.gpus[one] == nodes.gpus[other]
        and supply.soon.free[one] == supply.soon.free[other]
        and supply.near.free[one] == supply.near.free[other]
    )
