"""Why a job waits or must go, and how a queue stands, in words for people."""

from __future__ import annotations

from slurmext.model.plan import Plan
from slurmext.model.snapshot import Snapshot


def explain(snapshot: Snapshot, plan: Plan, job_id: str) -> str:
    """What the plan means for the job."""
    del snapshot
    return f"Job {job_id}: {plan.reasons.get(job_id, 'runs')}"


def explain_queue(snapshot: Snapshot, plan: Plan, path: str) -> str:
    """How the queue stands."""
    del snapshot, plan
    return path
