"""Which job of this node a process speaks for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from slurmext.agent.jobs import RunningJob, job_of_process
from slurmext.agent.node import Node, Refused, job_id_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurmext.agent.server import Peer


def own_job(node: Node, peer: Peer, request: Mapping[str, Any]) -> int:
    """The number of the peer's job here. Raises Refused unless the job is of the peer's user and on this node.

    Tasks of a heterogeneous job all have the number of its first component for SLURM_JOB_ID (tried on 22.05). On the
    nodes of the others the job has another, which the slurmstepd above the task names.
    """
    asked = job_id_of(request)
    job = node.jobs.get(asked)
    if job is None and (here := job_of_process(peer.pid)) is not None:
        job = node.jobs.get(here)
        if job is None and here == asked:  # its prolog found no agent
            job = RunningJob(job_id=asked, uid=peer.uid, started_s=time.time())
            node.jobs.start(job)
    if job is None or job.uid != peer.uid:
        raise Refused(f"job {asked} is not a job of uid {peer.uid} on node {node.name}")
    return job.job_id
