"""A job's runs: how many there were, why it was requeued, since when it waits, and the slices that the last one had."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from slurmext.model.state import ActionKind, Event, JobRow, PreemptionRecord
from slurmext.service import chain
from slurmext.service.query.context import Context
from slurmext.service.query.viewer import Answer
from slurmext.service.reason_history import reasons_in

_RUN_ENDS = frozenset({"job_end", "evict.requeued", "evict.done"})


def runs_of(context: Context, row: JobRow, events: Iterable[Event], preemptions: Iterable[PreemptionRecord]) -> Answer:
    """`runs`: the one that runs included; `links`: how many ended for the time limit (`--ckpt=…,chain`)."""
    actions = context.store.actions(job_id=row.job.job_id, limit=2 * chain.MOST_LINKS) if row.restarts else []
    links = sum(
        action.kind is ActionKind.EVICT
        and action.job == row.job
        and chain.is_link(action)
        and "requeued_s" in action.detail
        for action in actions
    )
    waits = row.state == "pending" and row.end_s is None
    return {
        "runs": row.restarts + (row.start_s is not None),
        "requeues": row.restarts,
        "links": links,
        "most_links": chain.MOST_LINKS,
        "waits_since_s": _waits_since(row, events, preemptions) if waits else None,
    }


def _waits_since(row: JobRow, events: Iterable[Event], preemptions: Iterable[PreemptionRecord]) -> float:
    """Since its last run ended; of one that has not run, since it was submitted."""
    ends = [float(row.job.submit_s), *(line.ended_s for line in preemptions)]
    if row.restarts:
        ends += [event.at_s for event in events if event.kind in _RUN_ENDS]
        # Between two spells of waiting it ran, whether or not anybody told how that ended.
        ends += [since for (_, _, until), (_, since, _) in pairwise(reasons_in(row.reasons)) if until != since]
    return max(ends)


def had_slices(context: Context, row: JobRow) -> Sequence[Answer]:
    """What parts of GPUs the last run of an ended job had."""
    if row.end_s is None:
        return ()
    records = context.store.slices(active=False, job_ids=[row.job.job_id])
    mine = [record for record in records if record.job == row.job and record.live_s is not None]
    return [
        {
            "slice": record.profile or f"{record.share_pct}%",
            "node": record.node,
            "gpu_type": record.gpu_type,
            "memory_mib": record.memory_mib,
            "milli": record.milli,
            "why": record.why,
            "live_s": record.live_s,
            "ended_s": record.ended_s,
        }
        for record in mine
        if record.reservation == mine[-1].reservation
    ]
