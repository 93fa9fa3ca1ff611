"""Heterogeneous jobs: several jobs of Slurm's that start, are requeued and end together. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from slurmext.model.cluster import JobRecord
from slurmext.model.job import JobState, NodeGpus

LEFT_TO_SLURM = "a heterogeneous job: Slurm alone starts it, outside all queues"
"""What is said of such a job, whatever it does."""
BETWEEN = "+"
"""Between the id of the whole and the number of a component: `12+0`, `12+1`."""


def whole_id(slurm_id: str) -> str:
    """`12` of `12+1`: what Slurm's commands take for all components. Any other id is its own."""
    return slurm_id.partition(BETWEEN)[0]


def first_of(job_id: str) -> str:
    """`12+0` of `12`: the component that has the batch script."""
    return f"{job_id}{BETWEEN}0"


def whole_jobs(records: Iterable[JobRecord]) -> Mapping[str, JobRecord]:
    """Each heterogeneous job of these as one record with its `components`, by the id of the whole.

    Its state is the one that all components have. While they differ nothing is known of it: it is starting or ending.
    One whose first component is not among these is left out.
    """
    found = dict[str, list[JobRecord]]()
    for record in records:
        if record.het:
            found.setdefault(whole_id(record.slurm_id), []).append(record)
    wholes = dict[str, JobRecord]()
    for job_id, parts in found.items():
        parts.sort(key=lambda part: int(part.slurm_id.partition(BETWEEN)[2] or 0))
        if parts[0].slurm_id == first_of(job_id):
            wholes[job_id] = _whole(job_id, parts)
    return wholes


def _whole(job_id: str, parts: Sequence[JobRecord]) -> JobRecord:
    first = parts[0]
    gpus = Counter[str]()
    for part in parts:
        for place in part.placement:
            gpus[place.node] += place.gpus
    asked = next((part for part in parts if part.annotation is not None and part.annotation.ckpt), first)
    states = {part.state for part in parts}
    return replace(
        first,
        slurm_id=job_id,
        components=tuple(parts),
        state=first.state if len(states) == 1 else JobState.UNKNOWN,
        gpus_per_task=sum(part.tasks * part.gpus_per_task for part in parts),
        tasks=1,
        tasks_per_node=None,
        nodes=sum(part.nodes for part in parts),
        eligible_s=max((part.eligible_s for part in parts if part.eligible_s), default=None),
        end_s=min((part.end_s for part in parts if part.end_s), default=None),
        time_limit_s=min((part.time_limit_s for part in parts if part.time_limit_s), default=None),
        requeue=all(part.requeue for part in parts),
        placement=tuple(NodeGpus(node=node, gpus=count) for node, count in sorted(gpus.items())),
        annotation=asked.annotation,
    )
