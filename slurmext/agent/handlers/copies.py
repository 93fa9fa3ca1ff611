"""Copies of checkpoints in memory: a job hands its files in as descriptors, and its next run gets descriptors back."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from slurmext.agent.copies.store import NAME
from slurmext.agent.handlers.rate import Rate
from slurmext.agent.handlers.whose import own_job
from slurmext.agent.node import Node, Refused, text, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurmext.agent.copies.service import Copies
    from slurmext.agent.copies.store import Kept
    from slurmext.agent.server import Peer

MOST_FILES = 64
"""Descriptors in one message; the kernel takes 253 (unix(7), SCM_MAX_FD)."""
DRAINS = Rate(most=60, per_s=60.0, what="reports")


def keep(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """Copy these files of a checkpoint. Accepted from the job's own user only, for a job on this node."""
    copies, job_id = _mine(node, peer, request)
    names, descriptors = _files(request), request.get("_fds")
    if not isinstance(descriptors, list) or len(names) != len(descriptors):
        raise Refused("files must be a list of names with an open descriptor for each")
    sizes = request.get("sizes")
    if sizes is not None and (not isinstance(sizes, list) or len(sizes) != len(names) or not all(map(_is_size, sizes))):
        raise Refused("sizes must be a list of bytes for each file")
    taken = copies.keep(
        job_id, peer.uid, text(request, "name", longest=100), names, descriptors,
        sizes=sizes, only=request.get("only") is True,
    )  # fmt: skip
    return {"bytes": taken, "busy": taken == 0 and bool(names) and (sizes is None or any(sizes))}


def kept(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """Whether files of a checkpoint that were handed in are here by now, and where its copy on another node is."""
    copies, job_id = _mine(node, peer, request)
    name = text(request, "name", longest=100)
    there = copies.kept(job_id, peer.uid, name, _files(request))
    if isinstance(there, str):
        return {"kept": False, "failed": there}
    passed = copies.passing.outcome(job_id, name)
    told = {} if passed is None else {"peer": passed.node, "peer_why": passed.why}
    return {"kept": there, "there_bytes": copies.store.there_bytes(job_id, peer.uid), **told}


def fetch(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """The copies there are of the job, from this node's memory or another's: names and a descriptor for each file."""
    copies, job_id = _mine(node, peer, request)
    return _handed(copies.hand_out(job_id, peer.uid), request)


def gather(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """Certain files of the job's checkpoint `name`, from all nodes that have some; the newest manifest without it."""
    copies, job_id = _mine(node, peer, request)
    name = text(request, "name", longest=100)
    if name and not NAME.fullmatch(name):
        raise Refused(f"{name[:40]!r} is no checkpoint's name")
    return _handed(copies.gather(job_id, peer.uid, name, _files(request)), request)


def _handed(found: list[Kept] | int, request: Mapping[str, Any]) -> dict[str, Any]:
    skip = whole(request, "skip") if "skip" in request else 0
    if isinstance(found, int):
        return {"pending_bytes": found, "files": []}
    part = found[skip : skip + MOST_FILES]
    descriptors: list[int] = []
    listed: list[dict[str, Any]] = []
    for kept in part:
        try:
            descriptors.append(os.open(kept.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW))
        except OSError:
            continue
        listed.append({"name": kept.name, "file": kept.file, "size": kept.size})
    return {"files": listed, "more": len(found) - skip - len(part), "_fds": descriptors}


def drain(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """A job says how far a copy is on its way back into its checkpoint directory."""
    _, job_id = _mine(node, peer, request)
    name = text(request, "name", longest=100)
    size = whole(request, "size_bytes")
    done = whole(request, "done_bytes", high=size)
    if not NAME.fullmatch(name):
        raise Refused(f"{name[:40]!r} is no checkpoint's name")
    DRAINS.admit(job_id, time.monotonic())
    node.events.add(
        "ckpt_copy", job_id=job_id, uid=peer.uid, name=name, tier="directory", size_bytes=size, done_bytes=done
    )
    return {}


def _files(request: Mapping[str, Any]) -> list[str]:
    files = request.get("files")
    if not isinstance(files, list):
        raise Refused("files must be a list of names")
    return [text({"file": name}, "file", longest=100) for name in files]


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _mine(node: Node, peer: Peer, request: Mapping[str, Any]) -> tuple[Copies, int]:
    if node.copies is None:
        raise Refused("this node keeps no copies in memory (agent.copies of the site file)")
    return node.copies, own_job(node, peer, request)


OPERATIONS = {
    "ckpt_keep": keep, "ckpt_kept": kept, "ckpt_fetch": fetch, "ckpt_gather": gather, "ckpt_drain": drain,
}  # fmt: skip
