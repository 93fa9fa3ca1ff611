"""Records that the stores' tests write and read."""

from __future__ import annotations

from typing import Any

from slurmext.model.state import (
    ActionKind,
    CheckpointRecord,
    Intent,
    JobKey,
    JobRow,
    PreemptionRecord,
)

KEY = JobKey(job_id="12", submit_s=500)


OTHER = JobKey(job_id="13_4", submit_s=501)


def evict(job: JobKey = KEY, **detail: object) -> Intent:
    return Intent(kind=ActionKind.EVICT, job=job, reason="RECLAIM_GUARANTEE", message="for 57", detail=detail)


def taken(victim: JobKey = KEY, ended_s: float = 1100.5, **other: Any) -> PreemptionRecord:
    return PreemptionRecord(
        **{
            "victim": victim,
            "victim_user": "alice",
            "beneficiary": "57",
            "reason": "RECLAIM_GUARANTEE",
            "from_queue": "research",
            "to_queue": "prod/chat",
            "gpus": 4,
            "lost_gpu_s": 25.25,
            "signalled_s": 1090.125,
            "confirmed_s": None,
            "ended_s": ended_s,
            **other,
        }
    )


def saved(job_id: str = "12", saved_s: float = 1050.0, **other: Any) -> CheckpointRecord:
    return CheckpointRecord(
        **{
            "job_id": job_id,
            "step": 300,
            "path": "/ckpt/300",
            "size_bytes": 2**40,
            "saved_s": saved_s,
            "confirmed_s": saved_s + 0.5,
            "node": "n1",
            **other,
        }
    )


# jobs

ROW = JobRow(
    job=KEY,
    name="train größe 🚀",
    user="alice",
    account="a1",
    queue="prod/chat",
    state="running",
    gpus=4,
    nodes="n[1-2]",
    reason="",
    message="ok",
    ckpt="USR1@60",
    preempted=1,
    restarts=2,
    start_s=900.125,
    end_s=None,
    requested_nodes="n1",
    updated_s=1000.5,
)
