"""What queues used of late, from what the store remembers of their jobs' runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from slurmext.model.slicing import WHOLE_MILLI
from slurmext.model.state import ActionKind, ActionState, JobKey
from slurmext.ports import Store

DAY_S = 86400.0
_SLACK_S = 60.0
"""Whoever asked for two days asked a moment ago."""
_MOST = 200_000
"""So many jobs are looked at, the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """`gpus` of a queue in use from `start_s` to `end_s` (Unix seconds); a slice is its part of one."""

    queue: str
    gpus: float
    start_s: float
    end_s: float


def runs(store: Store, path: str | None, since_s: float, now_s: float) -> Iterator[Run]:
    """Runs of jobs of the queue and those below it (None: of all) that lasted past `since_s`.

    A job's last run is in its row; one that ended in an eviction is in the ledger, and began when a release was done.
    A run that Slurm itself ended and requeued (a failed node) is not remembered.
    """
    rows = store.jobs(active=False, queue=path, ended_since_s=since_s, limit=_MOST)
    for row in rows:
        if row.start_s is not None and row.state != "pending":
            yield Run(queue=row.queue, gpus=row.gpus, start_s=row.start_s, end_s=row.end_s or now_s)
    keys = {row.job for row in rows}
    evicted = [line for line in store.preemptions(since_s=since_s, limit=_MOST) if line.victim in keys]
    began = _starts(store, {line.victim for line in evicted}, since_s)
    for line in evicted:
        starts = [at_s for at_s in began.get(line.victim, ()) if at_s <= line.ended_s]
        yield Run(queue=line.from_queue, gpus=line.gpus, start_s=max(starts, default=since_s), end_s=line.ended_s)


def slice_runs(store: Store, path: str | None, since_s: float, now_s: float) -> Iterator[Run]:
    """The same of slices, each while its job had it."""
    for record in store.slices(active=False, since_s=since_s, limit=_MOST):
        if record.live_s is not None and (path is None or f"{record.queue}/".startswith(f"{path}/")):
            ended_s = now_s if record.ended_s is None else record.ended_s
            yield Run(queue=record.queue, gpus=record.milli / WHOLE_MILLI, start_s=record.live_s, end_s=ended_s)


def _starts(store: Store, keys: set[JobKey], since_s: float) -> dict[JobKey, list[float]]:
    found: dict[JobKey, list[float]] = {}
    for action in store.actions(since_s=since_s, limit=_MOST) if keys else ():
        if action.kind is ActionKind.RELEASE and action.state is ActionState.DONE and action.job in keys:
            found.setdefault(action.job, []).append(action.changed_s)
    return found


def gpu_hours(found: Iterable[Run], since_s: float, now_s: float) -> dict[str, list[float]]:
    """GPU-hours per queue and day, the day that ends now last. A queue's use includes that of the queues below it."""
    days = max(1, -int(-(now_s - since_s - _SLACK_S) // DAY_S))
    used: dict[str, list[float]] = {}
    for run in found:
        path = run.queue
        parts = list(_per_day(run, days, now_s))
        while path:
            sums = used.setdefault(path, [0.0] * days)
            for day, hours in parts:
                sums[day] += hours
            path = path.rpartition("/")[0]
    return dict(sorted(used.items()))


def _per_day(run: Run, days: int, now_s: float) -> Iterator[tuple[int, float]]:
    for day in range(days):
        end_s = now_s - (days - 1 - day) * DAY_S
        inside = min(run.end_s, end_s) - max(run.start_s, end_s - DAY_S)
        if inside > 0:
            yield day, inside * run.gpus / 3600
