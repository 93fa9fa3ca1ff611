"""`slurmext job extend`: the one question that changes something. Its asker is who the kernel or munge says."""

from __future__ import annotations

import math

from slurmext.errors import SlurmextError, UsageError
from slurmext.model.state import ActionKind, Event, Extension
from slurmext.service.query.context import Context
from slurmext.service.query.gpus import idle_rule
from slurmext.service.query.jobs import known_job
from slurmext.service.query.viewer import Answer, Question, Viewer

LONGEST_S = 366 * 86400.0
"""Nobody, root included, has a job spared for longer at a time."""


def extended(context: Context, viewer: Viewer, asked: Question) -> Answer:
    """Spare a running job although its GPUs are idle, from now on for so long; 0 takes an extension back.

    Raises UsageError (no duration, too long), SlurmextError (no such job of the viewer's, not running, no need).
    """
    if asked.for_s is None or not math.isfinite(asked.for_s) or asked.for_s < 0:
        raise UsageError("say for how long, for example --for 2h; --for 0 takes an extension back")
    row = known_job(context, viewer, asked.job or "")
    job_id, now_s = row.job.job_id, context.now()
    if row.end_s is not None or row.state != "running":
        state = "ended" if row.end_s is not None else f"is {row.state}"
        raise SlurmextError(f"job {job_id} {state}: only a running job can be kept although its GPUs are idle")
    if any(action.job == row.job and action.kind is ActionKind.EVICT for action in context.store.open_actions()):
        raise SlurmextError(f"job {job_id} is leaving already ('slurmext job explain {job_id}' says why)")
    rule = idle_rule(context, row.queue)
    if rule is None:
        raise SlurmextError(f"queue {row.queue} lets its jobs idle: job {job_id} needs no extension")
    most_s = LONGEST_S if viewer.sees_all else min(rule.max_extend_s, LONGEST_S)
    if asked.for_s > most_s:
        raise UsageError(
            f"{asked.for_s:g} s is too long: a job of queue {row.queue} can be kept for {most_s:g} s at a time"
            f" (max_extend_s of its idle rule); ask for less now, and again later"
        )
    keep_until_s = now_s + asked.for_s
    context.store.record_extension(
        Extension(job=row.job, keep_until_s=keep_until_s, asked_by=viewer.user, asked_s=now_s)
    )
    message = f"{viewer.user} keeps it for {asked.for_s:g} s although its GPUs are idle"
    if not asked.for_s:
        message = f"{viewer.user} took its extension back"
    detail: dict[str, object] = {"keep_until_s": keep_until_s, "asked_by": viewer.user}
    context.store.record_event(
        Event(at_s=now_s, source="daemon", kind="extend", job_id=job_id, message=message, detail=detail)
    )
    context.changed()
    return {"job": job_id, "now_s": now_s, "keep_until_s": keep_until_s, "idle": {"after_s": rule.after_s,
            "grace_s": rule.grace_s, "action": rule.action.value}}  # fmt: skip
