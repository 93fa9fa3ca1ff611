"""GPUs asked for as a total (`sbatch --gpus=8`) by a job that does not say on how many nodes.

Slurm spreads such a job when no node has so many. To the planner it then asks for that many single GPUs anywhere; one
that a node could hold waits for a node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from slurmext.model.cluster import ClusterView, JobRecord
from slurmext.model.job import JobState


def with_totals(view: ClusterView) -> ClusterView:
    """The view, with the waiting jobs that no single node could hold as jobs that may be spread.

    Nodes that are down count: `-N1` looks alike here, and a job must not be sent where it never starts.
    """
    if not any(_may_spread(record) for record in view.jobs):
        return view
    most = dict[str, int]()
    for node in view.nodes:
        most[node.gpu_type] = max(node.gpus, most.get(node.gpu_type, 0))
    return replace(view, jobs=tuple(_spread(record, most) if _may_spread(record) else record for record in view.jobs))


def _may_spread(record: JobRecord) -> bool:
    return record.total and record.state is JobState.PENDING and record.nodes == 1 and record.tasks == 1


def _spread(record: JobRecord, most: Mapping[str, int]) -> JobRecord:
    asked = record.annotation.types if record.annotation is not None else ()
    types = tuple(kind for kind in asked or record.types if kind != "any")
    size = max((gpus for kind, gpus in most.items() if not types or kind in types), default=0)
    if not 0 < size < record.gpus_per_task:
        return record
    nodes = -(-record.gpus_per_task // size)
    return replace(record, tasks=record.gpus_per_task, gpus_per_task=1, tasks_per_node=None, nodes=nodes)
