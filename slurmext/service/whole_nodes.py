"""Jobs that have their nodes for themselves (`sbatch --exclusive`): nobody else can use the GPUs they leave idle there.

To the planner they ask for all GPUs of each of their nodes. Planned by what they asked for they would be sent where
Slurm cannot start them, and what is idle beside them would be given to others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from slurmext.model.cluster import ClusterView, JobRecord
from slurmext.model.job import NodeGpus
from slurmext.model.node import Node, NodeState


def with_whole_nodes(view: ClusterView) -> ClusterView:
    """The view, with exclusive jobs that use GPUs as jobs of whole nodes."""
    if not any(record.exclusive and record.gpus_per_task for record in view.jobs):
        return view
    nodes = {node.name: node for node in view.nodes}
    jobs = (_whole(record, nodes) if record.exclusive and record.gpus_per_task else record for record in view.jobs)
    return replace(view, jobs=tuple(jobs))


def _whole(record: JobRecord, nodes: Mapping[str, Node]) -> JobRecord:
    """On nodes of several sizes it waits for one of the largest: on those it fits whatever node that is."""
    asked = record.annotation.types if record.annotation is not None else ()
    types = tuple(kind for kind in asked or record.types if kind != "any")
    up = [node.gpus for node in nodes.values() if node.state is NodeState.UP and (not types or node.gpu_type in types)]
    size = max(up, default=record.gpus_per_task)
    there = tuple(
        NodeGpus(node=part.node, gpus=nodes[part.node].gpus if part.node in nodes else part.gpus)
        for part in record.placement
    )
    return replace(record, tasks=record.nodes, tasks_per_node=1, gpus_per_task=size, placement=there)
