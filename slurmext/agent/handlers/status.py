"""How the agent is, for `slurmext doctor` and people."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from slurmext import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurmext.agent.node import Node
    from slurmext.agent.server import Peer


def status(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """Everyone sees the agent's state and their own jobs; root sees every job."""
    everything = peer.uid in node.trusted_uids
    states = node.gpu_states()
    slices = node.slices.described(None if everything else peer.uid) if node.slices is not None else []
    jobs = [job for job in node.jobs.all() if everything or job.uid == peer.uid]
    return {
        "version": __version__,
        "node": node.name,
        "pid": os.getpid(),
        "started_s": node.started_s,
        "controller_since_s": node.controller_since_s(),
        "events_waiting": len(node.events),
        "jobs": [asdict(job) | {"gpu_state": states.get(job.job_id, "")} for job in jobs][:1000],
        "slices": slices[:1000],
    }


OPERATIONS = {"status": status}
