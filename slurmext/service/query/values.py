"""Records as plain JSON values, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from slurmext.model.state import ActionRecord, Event, JobRow
from slurmext.service.query.viewer import Answer


def job_values(row: JobRow, part: float | None = None) -> Answer:
    """A job as JSON values. `part`: GPUs that one of slices counts as."""
    values = asdict(row)
    key = values.pop("job")
    del values["reasons"]  # the store's own writing of them
    return {**key, **values, "gpus": row.gpus if row.gpus or part is None else part}


def event_values(event: Event) -> Answer:
    """An event as JSON values."""
    return {**asdict(event), "detail": dict(event.detail)}


def action_values(action: ActionRecord) -> Answer:
    """An action as JSON values."""
    return {**asdict(action), "job": action.job.job_id, "detail": dict(action.detail)}


def is_within(path: str, above: str) -> bool:
    """Whether a queue is `above` or below it."""
    return path == above or path.startswith(f"{above}/")


def is_kind(kind: str, wanted: str) -> bool:
    """`evict` means `evict` and every `evict.…`."""
    return kind == wanted or kind.startswith((f"{wanted}.", f"{wanted}_"))


def owner_at(rows: Iterable[JobRow], job_id: str, at_s: float) -> str | None:
    """User of the submission of `job_id` that was the newest at that time; None when there was none."""
    known = [row for row in rows if row.job.job_id == job_id and row.job.submit_s <= at_s + 1]
    return max(known, key=lambda row: row.job.submit_s).user if known else None
