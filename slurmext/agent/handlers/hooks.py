"""Prolog, Epilog and TaskProlog: jobs starting and ending on this node, and what a task's environment gets."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from slurmext.agent.jobs import RunningJob
from slurmext.agent.node import Node, Refused, job_id_of, only_trusted, text, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slurmext.agent.server import Peer

MAX_UID = (1 << 32) - 2
CKPT_DIR_NAME = "slurmext-ckpt"


def prolog(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """A job starts here."""
    only_trusted(node, peer)
    job_id, uid, env = _hook(node, request)
    restarts = text(env, "SLURM_JOB_RESTART_COUNT") or text(env, "SLURM_RESTART_COUNT")
    job = RunningJob(
        job_id=job_id,
        uid=uid,
        started_s=time.time(),
        restarts=int(restarts) if restarts.isdecimal() else 0,
        gpus=text(env, "SLURM_JOB_GPUS"),
        queue=text(env, "SPANK_SLURMEXT_QUEUE"),
        ckpt=text(env, "SPANK_SLURMEXT_CKPT"),
        ckpt_dir=text(env, "SPANK_SLURMEXT_CKPT_DIR"),
        work_dir=text(env, "SLURM_JOB_WORK_DIR"),
    )
    node.jobs.start(job)
    node.events.add("job_start", job_id=job_id, uid=uid, restarts=job.restarts, gpus=job.gpus)
    return {}


def epilog(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """A job's last process here is gone."""
    only_trusted(node, peer)
    job_id, uid, env = _hook(node, request)
    node.jobs.end(job_id)
    node.events.add("job_end", job_id=job_id, uid=uid, exit_code=text(env, "SLURM_JOB_EXIT_CODE2", longest=20))
    return {}


def task_prolog(node: Node, peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    """What a task's environment gets. Runs as the job's user, and tells nothing but what is that user's."""
    job_id, _, env = _hook(node, request)
    job = node.jobs.get(job_id)
    if job is not None and peer.uid not in {job.uid, *node.trusted_uids}:
        raise Refused(f"job {job_id} is not uid {peer.uid}'s")
    # A value in the task's own environment is the newest word of its owner (a step may have its own).
    queue = text(env, "SLURMEXT_QUEUE") or (job.queue if job else "")
    folder = text(env, "SLURMEXT_CKPT_DIR") or (job.ckpt_dir if job else "")
    if not folder:
        base = text(env, "SLURM_SUBMIT_DIR") or (job.work_dir if job else "")
        # The job's id stays the same over requeues, so the next run finds what this one saved.
        folder = f"{base}/{CKPT_DIR_NAME}/{job_id}" if base.startswith("/") else ""
    exported = {"SLURMEXT_AGENT_SOCKET": node.socket_path, "SLURMEXT_CKPT_DIR": folder, "SLURMEXT_QUEUE": queue}
    return {"export": {name: value for name, value in exported.items() if value}, "unset": [], "print": []}


def _hook(node: Node, request: Mapping[str, Any]) -> tuple[int, int, Mapping[str, Any]]:
    if request.get("node") != node.name:
        raise Refused(f"this is the agent of node {node.name}, not of {str(request.get('node'))[:64]!r}")
    env = request.get("env")
    return job_id_of(request), whole(request, "uid", high=MAX_UID), env if isinstance(env, dict) else {}


OPERATIONS = {"prolog": prolog, "epilog": epilog, "task_prolog": task_prolog}
