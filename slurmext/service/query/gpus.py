"""What a job's GPUs do, and what its owner is told."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

from slurmext.model.queue import IdleRule
from slurmext.model.state import JobRow
from slurmext.service.idleness import idle_since, of_this_run
from slurmext.service.query.context import Context
from slurmext.service.query.viewer import Answer


def told(context: Context, row: JobRow) -> Answer:
    """`gpus`: use in the job's last run, `idle_since_s` among it; `notices` to its owner; its `extension`."""
    now_s = context.now()
    words = context.store.gpu_activity(job_ids=[row.job.job_id])
    mine = of_this_run(words, row.start_s) if row.start_s is not None else []
    measured = [(word.mean_percent, word.gpus) for word in mine if word.mean_percent is not None]
    peaks = [word.peak_memory_mib for word in mine if word.peak_memory_mib is not None]
    nodes: Collection[str] = [name for name in row.nodes.split(",") if name]
    running = row.state == "running" and row.end_s is None
    extension = context.store.extensions(until_s=now_s).get(row.job) if running else None
    rule = idle_rule(context, row.queue) if running else None
    return {
        "gpu_use": {
            "mean_percent": round(sum(mean * gpus for mean, gpus in measured) / sum(gpus for _, gpus in measured), 1)
            if measured
            else None,
            "peak_memory_mib": max(peaks, default=None),
            "idle_since_s": idle_since(mine, nodes, row.start_s, now_s) if running else None,
            "nodes": {word.node: word.state.value for word in mine},
        }
        if mine
        else None,
        "idle_rule": None if rule is None else asdict(rule),
        "notices": [
            {key: value for key, value in asdict(notice).items() if key != "job"}
            for notice in context.store.notices()
            if notice.job == row.job
        ],
        "extension": None if extension is None else {**asdict(extension), "job": row.job.job_id},
    }


def idle_rule(context: Context, path: str) -> IdleRule | None:
    """The queue's idle rule; None when it has none or is not in the policy."""
    found = context.site_policy()
    if found is None:
        return None
    stored, site = found
    queue = site.by_path.get(path) or site.as_model(stored.version).dynamic_queue(path)
    return None if queue is None else queue.idle
