"""Copies of checkpoints in nodes' memory, and what saving costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import cast

from slurmext.service.query.context import Context
from slurmext.service.query.jobs import known_job
from slurmext.service.query.viewer import Answer, Question, Viewer

EVENTS = 100
IN_MEMORY = ("memory_every_s", "memory_cost_s", "lost_s")
SAVES = frozenset({"checkpoint", "memory_saves"})
LONGEST_S = 1e12


def copies(context: Context, viewer: Viewer, asked: Question) -> Answer:
    """Where copies of a job's checkpoints are; to agents also how these are reached, who ask by SLURM_JOB_ID."""
    job = asked.job or ""
    if not viewer.sees_all or not job.isdecimal():
        job = known_job(context, viewer, job).job.job_id
    ids = context.raw_ids(job)
    answer: Answer = {"copies": [asdict(copy) for raw_id in ids for copy in context.store.copies(job_id=raw_id)]}
    if viewer.sees_all and "peers" in context.live:
        answer["peers"] = context.live["peers"]()
    return answer


def why(context: Context, viewer: Viewer, asked: Question) -> Answer:
    """What a job's interval rests on: its own word, and the site's failures."""
    row = known_job(context, viewer, asked.job or "")
    job_id = row.job.job_id
    cost = context.store.checkpoint_costs([job_id]).get(job_id)
    last = context.store.last_checkpoints([job_id]).get(job_id)
    rate = context.store.failure_rate()
    recent = context.store.failures(limit=5)
    shown: list[Mapping[str, object]] = [
        {"at_s": item.at_s, "kind": item.kind, "node_count": item.node_count, "ran_s": item.ran_s} for item in recent
    ]
    return {
        "now_s": context.now(),
        "job": job_id,
        "ckpt": row.ckpt,
        "gpus": row.gpus,
        "nodes": row.nodes,
        "cost": None if cost is None else asdict(cost),
        "memory": _in_memory(context, job_id),
        "checkpoint": None if last is None or last.confirmed_s < row.job.submit_s else asdict(last),
        "failures": {"count": rate.count, "node_s": rate.node_s, "recent": shown},
    }


def _in_memory(context: Context, job_id: str) -> Mapping[str, float] | None:
    """What the job said last of its saves in memory: seconds between them, their cost, and between failures that need
    the directory all the same. None where it makes none.
    """
    for event in reversed(context.store.events(job_id=job_id, limit=EVENTS)):
        told: object = event.detail.get("cost") if event.kind in SAVES else None
        if isinstance(told, dict):
            found = {name: cast("dict[str, object]", told).get(name) for name in IN_MEMORY}
            numbers = {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
            fit = len(numbers) == len(IN_MEMORY) and all(0 < value < LONGEST_S for value in numbers.values())
            return numbers if fit else None
    return None
