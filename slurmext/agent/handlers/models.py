"""Prolog of a job with --preload: waits for its models, and never fails the job for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slurmext.agent.handlers.hooks import MAX_UID
from slurmext.agent.node import Node, Refused, job_id_of, only_trusted, text, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurmext.agent.server import Peer


def preload(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """Answers when the job's models are here, or it has become clear that they will not be."""
    only_trusted(node, peer)
    if request.get("node") != node.name:
        raise Refused(f"this is the agent of node {node.name}, not of {str(request.get('node'))[:64]!r}")
    if node.models is None:
        return {"staged": [], "missed": {}}
    env = request.get("env")
    wanted = text(env if isinstance(env, dict) else {}, "SPANK_SLURMEXT_PRELOAD")
    node.take_notes()  # among them may be the epilog of this job's run before
    found = node.models.preload(job_id_of(request), whole(request, "uid", high=MAX_UID), wanted)
    return {
        "staged": [each.model.reference for each in found if each.complete],
        "missed": {each.model.reference: each.why for each in found if not each.complete},
    }


OPERATIONS = {"preload": preload}
