"""What the daemon is at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import cast

from slurmext.errors import SlurmextError, UsageError
from slurmext.service.query.context import Context
from slurmext.service.query.viewer import Answer, Question, Viewer

_CONTROLLER = "controller"


def status(context: Context, _: Viewer, __: Question) -> Answer:
    lease = context.store.current_lease(_CONTROLLER)
    stored = context.store.current_policy()
    answer: Answer = {
        "now_s": context.now(),
        "lease": None if lease is None else asdict(lease),
        "policy_version": 0 if stored is None else stored.version,
        "open_actions": len(context.store.open_actions()),
    }
    if "status" in context.live:
        answer.update(context.live["status"]())
    return answer


def defragment(context: Context, viewer: Viewer, _: Question) -> Answer:
    """Have the next cycles move small jobs together, where that is worth it."""
    if not viewer.sees_all:
        raise UsageError("only root and Slurm's administrators may have jobs of others moved")
    if context.store.current_policy() is None:
        raise SlurmextError("no policy was applied yet, so nothing is managed; 'slurmext policy apply FILE' does")
    context.tidy()
    context.changed()
    return {"asked": True}


def plan(context: Context, viewer: Viewer, _: Question) -> Answer:
    if "plan" not in context.live:
        raise SlurmextError("no plan is at hand; 'slurmext plan' makes one")
    plan = dict(context.live["plan"]())
    if viewer.sees_all:
        return plan
    reasons = cast("Mapping[str, object]", plan.get("reasons", {}))
    mine = {row.job.job_id for row in context.store.jobs(active=True, user=viewer.user)}
    return {"reasons": {job: why for job, why in reasons.items() if job in mine}}
