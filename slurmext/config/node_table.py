"""The table of how large the nodes are, for job_submit.lua: what no node could ever hold is refused there."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from slurmext.model.node import Node

EVERYWHERE = "*"


def nodes_tsv(nodes: Iterable[Node], partitions: Mapping[str, Collection[str]]) -> str:
    """`memory`, the most MiB that a node has, its name, of which partition (`*`: of all); `cpus`, the most CPUs,
    likewise; `gpus`, how many GPUs a node has, their type, of which partition, how many such nodes it has: with tabs
    between fields. `partitions` are those of each node.

    Nodes that are down count, as in Slurm. No line for what is not known of every node.
    """
    members: dict[str, list[Node]] = {EVERYWHERE: sorted(nodes, key=lambda node: node.name)}
    for node in members[EVERYWHERE]:
        for partition in partitions.get(node.name, ()):
            members.setdefault(partition, []).append(node)
    lines = list[str]()
    for partition, listed in sorted(members.items()):
        sizes = {
            "memory": [(node.memory_mib, node.name) for node in listed],
            "cpus": [(node.cpus, node.name) for node in listed],
        }
        for what, found in sizes.items():
            known = [(most, name) for most, name in found if most]
            if known and len(known) == len(found):
                most, name = max(known, key=lambda size: size[0])
                lines.append(f"{what}\t{most}\t{name}\t{partition}\n")
        kinds = Counter((node.gpu_type, node.gpus) for node in listed if node.gpus)
        lines += [f"gpus\t{gpus}\t{kind}\t{partition}\t{count}\n" for (kind, gpus), count in sorted(kinds.items())]
    return "".join(lines)
