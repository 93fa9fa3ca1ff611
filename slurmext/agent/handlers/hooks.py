"""Prolog and Epilog: jobs starting and ending on this node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from slurmext.agent.jobs import RunningJob
from slurmext.agent.node import Node, Refused, job_id_of, only_trusted, seconds, text, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurmext.agent.server import Peer

MAX_UID = (1 << 32) - 2
SLICE_OPTIONS = ("SPANK_SLURMEXT_GPU_SLICE", "SPANK_SLURMEXT_GPU_SHARE", "SPANK_SLURMEXT_GPU_MEM",
                 "SPANK_SLURMEXT_GPU_COMPUTE")  # fmt: skip
"""A job that has one of these must not start without its slices, whether or not they were reserved here."""


def prolog(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """A job starts here."""
    only_trusted(node, peer)
    job_id, uid, env = _hook(node, request)
    restarts = text(env, "SLURM_JOB_RESTART_COUNT") or text(env, "SLURM_RESTART_COUNT")
    job = RunningJob(
        job_id=job_id,
        uid=uid,
        started_s=_at_s(request),
        restarts=int(restarts) if restarts.isdecimal() else 0,
        gpus=text(env, "SLURM_JOB_GPUS"),
        queue=text(env, "SPANK_SLURMEXT_QUEUE"),
        ckpt=text(env, "SPANK_SLURMEXT_CKPT"),
        ckpt_dir=text(env, "SPANK_SLURMEXT_CKPT_DIR"),
    )
    if "at_s" not in request:
        node.take_notes()  # among them may be the epilog of this job's run before
    node.jobs.start(job)
    if node.copies is not None and restarts == "0":
        node.copies.forget(job_id)  # what an earlier job of this id left
    node.events.add("job_start", job_id=job_id, uid=uid, restarts=job.restarts, gpus=job.gpus,
                    at_s=job.started_s)  # fmt: skip
    if node.slices is not None:
        wanted = any(text(env, name) for name in SLICE_OPTIONS)
        node.slices.prolog(job_id, uid, restarts=job.restarts if restarts.isdecimal() else None, wanted=wanted)
    return {}


def epilog(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """A job's last process here is gone."""
    only_trusted(node, peer)
    job_id, uid, env = _hook(node, request)
    node.jobs.end(job_id)
    node.listeners.forget(job_id)
    if node.slices is not None:
        node.slices.epilog(job_id)
    if node.models is not None:
        node.models.epilog(job_id)
    exit_code = text(env, "SLURM_JOB_EXIT_CODE2", longest=20)
    node.events.add("job_end", job_id=job_id, uid=uid, exit_code=exit_code, at_s=_at_s(request))
    return {}


def _hook(node: Node, request: Mapping[str, Any]) -> tuple[int, int, Mapping[str, Any]]:
    if request.get("node") != node.name:
        raise Refused(f"this is the agent of node {node.name}, not of {str(request.get('node'))[:64]!r}")
    env = request.get("env")
    return job_id_of(request), whole(request, "uid", high=MAX_UID), env if isinstance(env, dict) else {}


def _at_s(request: Mapping[str, Any]) -> float:
    """When it happened: a note may have waited for the agent."""
    return seconds(request, "at_s") if "at_s" in request else time.time()


OPERATIONS = {"prolog": prolog, "epilog": epilog}
