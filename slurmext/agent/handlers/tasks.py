"""TaskProlog of a job with slices: from now on its processes may open these devices and no others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from slurmext.agent.jobs import job_of_process
from slurmext.agent.node import Node, Refused, job_id_of
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurmext.agent.server import Peer

log = logging.getLogger(__name__)


def task(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """A task of the peer's job is about to start. `locked` names the kinds of cgroup that hold its job to its slices.

    Only for a process of that job, of that job's user.
    """
    job_id = job_id_of(request)
    if node.slices is None:
        raise Refused(f"job {job_id} has no slices on node {node.name}")
    if job_of_process(peer.pid) != job_id:
        raise Refused(f"process {peer.pid} of uid {peer.uid} is not of job {job_id} on node {node.name}")
    try:
        locked = node.slices.admit(job_id, peer.uid, peer.pid)
    except SlurmextError as error:
        log.warning("job %d: %s", job_id, error)
        raise Refused(str(error)) from error
    return {"locked": locked}


OPERATIONS = {"task": task}
