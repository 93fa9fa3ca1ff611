"""What the agent does when asked: one function per operation, grouped in modules.

A handler takes (Node, Peer, request) and returns the reply's fields, or raises Refused. To add an operation write a
module with an OPERATIONS table and name it in `ALL`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from slurmext.agent.handlers import checkpoint, copies, hooks, models, status, tasks
from slurmext.agent.node import Node, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurmext.agent.server import Peer

log = logging.getLogger(__name__)

ALL = (
    hooks.OPERATIONS
    | checkpoint.OPERATIONS
    | copies.OPERATIONS
    | models.OPERATIONS
    | status.OPERATIONS
    | tasks.OPERATIONS
)


def answer(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """The reply to a request; never raises."""
    op = request.get("op")
    handler = ALL.get(op) if isinstance(op, str) else None
    if handler is None:
        return {"ok": False, "error": f"unknown op {str(op)[:40]!r}; one of {', '.join(sorted(ALL))}"}
    try:
        return {"ok": True} | handler(node, peer, request)
    except Refused as error:
        log.info("op=%s uid=%d pid=%d refused: %s", op, peer.uid, peer.pid, error)
        return {"ok": False, "error": str(error)}
    except Exception:
        log.exception("op=%s uid=%d pid=%d", op, peer.uid, peer.pid)
        return {"ok": False, "error": "the agent failed; its log says how"}
