"""The table of how large the nodes are, for job_submit.lua: what no node could ever hold is refused there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurmext.model.node import Node


def nodes_tsv(nodes: Iterable[Node]) -> str:
    """`memory`, the most MiB that a node has, its name; `cpus`, the most CPUs, its name: with tabs between fields.

    Nodes that are down count, as in Slurm. No line for what is not known of every node.
    """
    listed = sorted(nodes, key=lambda node: node.name)
    sizes = {
        "memory": [(node.memory_mib, node.name) for node in listed],
        "cpus": [(node.cpus, node.name) for node in listed],
    }
    lines = list[str]()
    for what, found in sizes.items():
        known = [(most, name) for most, name in found if most]
        if known and len(known) == len(found):
            most, name = max(known, key=lambda size: size[0])
            lines.append(f"{what}\t{most}\t{name}\n")
    return "".join(lines)
