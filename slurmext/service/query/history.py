"""What happened: events and checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from slurmext.model.heterogeneous import whole_id
from slurmext.model.state import Event
from slurmext.service.query.context import Context
from slurmext.service.query.jobs import known_job
from slurmext.service.query.values import event_values, is_kind, owner_at
from slurmext.service.query.viewer import Answer, Question, Viewer


def events(context: Context, viewer: Viewer, asked: Question) -> Answer:
    if not viewer.sees_all and asked.job is None:
        ids = _latest_ids(context, viewer.user, asked)
    else:
        ids = None if asked.job is None else {known_job(context, viewer, asked.job).job.job_id}
    events: Iterable[Event]
    if ids is None:
        events = _newest_events(context, asked)
    else:
        events = [event for job_id in ids for event in _newest_events(context, asked, job_id)]
        events = _owned(context, viewer, events)
    kept = [event for event in events if asked.kind is None or is_kind(event.kind, asked.kind)]
    kept.sort(key=lambda event: (event.at_s, event.id or 0))
    return {"events": [event_values(event) for event in kept[-asked.limit :]]}


def _latest_ids(context: Context, user: str, asked: Question) -> set[str]:
    """The user's jobs that the newest events can be of: every job has some, so the newest jobs are enough."""
    rows = [
        *context.store.jobs(active=True, user=user, limit=asked.limit),
        *context.store.jobs(active=False, user=user, ended_since_s=asked.since_s, limit=asked.limit),
    ]
    return {row.job.job_id for row in rows}


def _newest_events(context: Context, asked: Question, job_id: str | None = None) -> list[Event]:
    """The store gives oldest first; walk its pages so that what is kept is the newest."""
    page, events, after = 1000, list[Event](), None
    while True:
        batch = context.store.events(job_id=job_id, since_s=asked.since_s, after_id=after, limit=page)
        events = (
            [*events, *batch][-max(asked.limit, page) :]
            if asked.kind is None
            else [
                *events,
                *(event for event in batch if is_kind(event.kind, asked.kind)),
            ][-asked.limit :]
        )
        if len(batch) < page or batch[-1].id is None:
            return events
        after = batch[-1].id


def _owned(context: Context, viewer: Viewer, events: Sequence[Event]) -> list[Event]:
    """Slurm reuses job ids: an event belongs to the submission of that id that came last before it."""
    if viewer.sees_all:
        return list(events)
    rows = context.store.jobs(job_ids={event.job_id for event in events if event.job_id}, active=False)
    return [event for event in events if event.job_id and owner_at(rows, event.job_id, event.at_s) == viewer.user]


def checkpoints(context: Context, viewer: Viewer, asked: Question) -> Answer:
    job = None if asked.job is None else whole_id(asked.job)
    records = context.store.checkpoints(job_id=job, limit=asked.limit)
    if not viewer.sees_all:
        rows = context.store.jobs(job_ids={record.job_id for record in records}, active=False)
        records = [item for item in records if owner_at(rows, item.job_id, item.confirmed_s) == viewer.user]
    return {"checkpoints": [asdict(record) for record in records]}
