"""Who hears the checkpoint signal, and checkpoints that jobs confirm, so that nobody need wait out the grace."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

from slurmext.agent.handlers.rate import Rate
from slurmext.agent.handlers.whose import own_job
from slurmext.agent.node import Node, Refused, seconds, text, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurmext.agent.server import Peer

BURST = 20
PER_S = 60.0
MAX_DIRECTORY = 4096


def confirm(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """A job of the peer saved itself. Accepted from the job's own user only, for a job on this node."""
    detail = {
        "step": whole(request, "step"),
        "path": text(request, "path", longest=MAX_DIRECTORY),
        "size_bytes": whole(request, "size_bytes"),
        "saved_at_s": seconds(request, "saved_at_s"),
        "on_signal": request.get("on_signal") is True,
    }
    if (cost := _cost(request)) is not None:
        detail["cost"] = cost
    job_id = own_job(node, peer, request)
    _RATE.admit(job_id, time.monotonic())
    node.events.add("checkpoint", job_id=job_id, uid=peer.uid, **detail)
    return {}


def in_memory(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """A job says how often it saves in memory, and what that costs. Only of a job of its own user on this node."""
    job_id = own_job(node, peer, request)
    _RATE.admit(job_id, time.monotonic())
    node.events.add("memory_saves", job_id=job_id, uid=peer.uid, cost=_cost(request) or {})
    return {}


def _cost(request: Mapping[str, Any]) -> dict[str, float] | None:
    cost = request.get("cost")
    if not isinstance(cost, dict):
        return None
    return {str(name): value for name, value in list(cost.items())[:16] if isinstance(value, int | float)}


def listen(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """The asking process wants the checkpoint signal of its job. Only for a job of its own user on this node."""
    name = text(request, "signal", longest=20)
    if "SIG" + name not in signal.Signals.__members__:
        raise Refused(f"signal: {name!r} is none; give a name like USR1")
    job_id = own_job(node, peer, request)
    if not node.listeners.add(job_id, pid=peer.pid, uid=peer.uid, signal_name=name):
        raise Refused(f"process {peer.pid} is gone, or too many processes of job {job_id} listen")
    return {}


_RATE = Rate(most=BURST, per_s=PER_S, what="confirmations")

OPERATIONS = {"ckpt_confirm": confirm, "ckpt_listen": listen, "ckpt_memory": in_memory}
