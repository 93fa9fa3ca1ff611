"""What the handlers share: this node's jobs and events, and the checks of a request."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slurmext.agent.listeners import Listeners
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slurmext.agent.copies.service import Copies
    from slurmext.agent.jobs import JobTable
    from slurmext.agent.server import Peer
    from slurmext.agent.slices.service import Slices
    from slurmext.agent.spool import EventSpool
    from slurmext.agent.staging.service import Models


class Refused(SlurmextError):
    """The peer may not do this, or asked for something that does not make sense; the message goes back to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The node this agent looks after. `trusted_uids` may send hook requests."""

    name: str
    jobs: JobTable
    events: EventSpool
    socket_path: str
    trusted_uids: frozenset[int] = frozenset({0})
    started_s: float = field(default_factory=time.time)
    controller_since_s: Callable[[], float | None] = lambda: None
    gpu_states: Callable[[], Mapping[int, str]] = dict
    slices: Slices | None = None
    copies: Copies | None = None
    models: Models | None = None
    listeners: Listeners = field(default_factory=Listeners)
    take_notes: Callable[[], object] = lambda: None


def only_trusted(node: Node, peer: Peer) -> None:
    """Raises Refused unless the peer may speak for Slurm."""
    if peer.uid not in node.trusted_uids:
        raise Refused(f"only Slurm's own hooks may do this, not uid {peer.uid}")


def whole(request: Mapping[str, Any], name: str, *, low: int = 0, high: int = (1 << 63) - 1) -> int:
    """A whole number of the request. Raises Refused."""
    value = request.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Refused(f"{name} must be a whole number from {low} to {high}")
    return value


def seconds(request: Mapping[str, Any], name: str) -> float:
    """A point in time of the request, Unix seconds. Raises Refused."""
    value = request.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e11:  # noqa: PLR2004
        raise Refused(f"{name} must be Unix seconds")
    return float(value)


def text(source: Mapping[str, Any], name: str, *, longest: int = 4096) -> str:
    """A line of text of the request, empty when absent. Raises Refused."""
    value = source.get(name, "")
    if not isinstance(value, str) or len(value) > longest or "\n" in value or "\0" in value:
        raise Refused(f"{name} must be one line of at most {longest} characters")
    return value


def job_id_of(request: Mapping[str, Any]) -> int:
    """The request's job. Raises Refused."""
    return whole(request, "job_id", low=1, high=(1 << 32) - 1)
