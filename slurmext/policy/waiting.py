"""The one dominant reason of a job that found no place."""

from __future__ import annotations

from slurmext.model.job import Job
from slurmext.model.plan import Reason
from slurmext.policy.round import Round


def reason_for(state: Round, job: Job) -> Reason:
    """Why the job has no GPUs although every limit lets it start.

    No node could ever hold it; or GPUs are idle but scattered; or somebody before it got what was idle; or all is
    in use.
    """
    tasks, size, per_node = job.least_tasks, job.gpus_per_task, job.tasks_per_node
    masks = [mask for mask, _ in state.flavors(job)]
    if all(state.empty.capacity(size, mask, per_node, tasks) < tasks for mask in masks):
        return Reason.NO_NODE_FITS
    if any(state.supply.now.total(mask) >= tasks * size for mask in masks):
        return Reason.FRAGMENTED
    if any(state.at_start.capacity(size, mask, per_node, tasks) >= tasks for mask in masks):
        return Reason.BEHIND_IN_QUEUE
    return Reason.NO_FREE_GPUS
