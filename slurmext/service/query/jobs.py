"""Jobs: which there are, and why each is where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from slurmext.errors import SlurmextError
from slurmext.model.heterogeneous import LEFT_TO_SLURM, whole_id
from slurmext.model.plan import Plan
from slurmext.model.snapshot import Snapshot
from slurmext.model.state import ActionKind, ActionRecord, JobRow, Notice, PreemptionRecord
from slurmext.policy.explain.job import JobAccount, job_account
from slurmext.policy.explain.obstacles import obstacles
from slurmext.service.query.cards import of_job
from slurmext.service.query.context import Context
from slurmext.service.query.gpus import told
from slurmext.service.query.parts import parts_of
from slurmext.service.query.runs import had_slices, runs_of
from slurmext.service.query.values import action_values, event_values, job_values
from slurmext.service.query.viewer import Answer, Question, Viewer, whose
from slurmext.service.reason_history import reasons_in

_SHOWN = 5


def listed(context: Context, viewer: Viewer, asked: Question) -> Answer:
    """Jobs that pass every filter: all for whoever sees all, else the viewer's own."""
    rows = context.store.jobs(
        active=not asked.ended,
        user=whose(viewer, asked),
        queue=asked.queue,
        state=asked.state,
        ended_since_s=asked.since_s,
        limit=asked.limit,
    )
    # A running job waits for nothing: its reason is the one it will have to leave for, if any.
    notices = {notice.job: notice for notice in reversed(context.store.notices())}
    parts = parts_of(context, rows, context.store.slices())
    return {"jobs": [job_values(_noted(row, notices.get(row.job)), parts.get(row.job)) for row in rows]}


def _values(context: Context, row: JobRow) -> Answer:
    mine = context.store.slices(job_ids=[row.job.job_id])
    return job_values(row, parts_of(context, [row], mine).get(row.job))


def _noted(row: JobRow, notice: Notice | None) -> JobRow:
    return row if notice is None or row.reason else replace(row, reason=notice.reason, message=notice.message)


def shown(context: Context, viewer: Viewer, asked: Question) -> Answer:
    """A job with what its GPUs do, what its owner is told, and its last checkpoint."""
    row = known_job(context, viewer, asked.job or "")
    events = context.store.events(job_id=row.job.job_id, since_s=float(row.job.submit_s))
    return {
        "now_s": context.now(),
        "job": _values(context, row),
        "checkpoint": _last_checkpoint(context, row),
        "slices": of_job(context, row.job.job_id),
        "had_slices": had_slices(context, row),
        **runs_of(context, row, events, _ledger(context, row)),
        **told(context, row),
    }


def explained(context: Context, viewer: Viewer, asked: Question) -> Answer:
    """Why a job waits, what must happen and when; who took its GPUs, why, and what it lost; its history."""
    row = known_job(context, viewer, asked.job or "")
    store, job_id, since = context.store, row.job.job_id, float(row.job.submit_s)
    ledger = _ledger(context, row)
    events = list(store.events(job_id=job_id, since_s=since, limit=asked.limit))
    leaving = [action for action in store.open_actions() if action.kind is ActionKind.EVICT]
    reasons = [{"code": code, "since_s": at, "until_s": until} for code, at, until in reasons_in(row.reasons)]
    return {
        "now_s": context.now(),
        "job": _values(context, row),
        "reasons": reasons,
        "leaving_for_it": [_leaving(item) for item in leaving if item.detail.get("beneficiary") == job_id],
        "being_evicted": [action_values(item) for item in leaving if item.job == row.job],
        "preemptions": [{**asdict(item), "victim": item.victim.job_id} for item in ledger],
        "checkpoint": _last_checkpoint(context, row),
        "timeline": [event_values(event) for event in events],
        "slices": of_job(context, job_id),
        "had_slices": had_slices(context, row),
        **runs_of(context, row, events, ledger),
        "left_to_slurm": row.message == LEFT_TO_SLURM,
        **_outlook(context, row),
        **told(context, row),
    }


def _ledger(context: Context, row: JobRow) -> list[PreemptionRecord]:
    return [line for line in context.store.preemptions(job_id=row.job.job_id) if line.victim == row.job]


def _last_checkpoint(context: Context, row: JobRow) -> Answer | None:
    found = context.store.last_checkpoints([row.job.job_id]).get(row.job.job_id)
    return None if found is None or found.confirmed_s < row.job.submit_s else asdict(found)


def _outlook(context: Context, row: JobRow) -> Answer:
    """What the last plan means for a job that waits, and when it starts; nothing where no daemon knows."""
    world = context.world() if row.state == "pending" and row.end_s is None else None
    account = None if world is None else job_account(*world, row.job.job_id)
    if world is None or account is None:
        return {"outlook": None, "estimate": None}
    return {"outlook": asdict(account), "estimate": _estimate(context, account, row.job.job_id)}


def _estimate(context: Context, account: JobAccount, job_id: str) -> Answer | None:
    """`start_s` in Unix seconds and `how` it was found; `start_s` None with `how` simulated: not in what was seen; with
    `how` blocked: not before what it waits for, besides GPUs, has changed.
    """
    if account.start_s is not None and account.start_how in {"now", "grace"}:
        return {"start_s": account.start_s, "how": account.start_how, "seen_s": None, "never": False}
    world = context.world()
    blocked = next((job.blocked for job in world[0].jobs if job.id == job_id), None) if world is not None else None
    if blocked:
        return {"start_s": None, "how": "blocked", "seen_s": None, "never": False, "blocked": blocked}
    seen = None if world is None or account.hopeless else context.forecast(world[0], job_id)
    if seen is not None:
        way = {} if world is None or not seen.never else _in_its_way(*world, job_id)
        return {"start_s": seen.start_s, "how": "simulated", "seen_s": seen.seen_s, "never": seen.never, **way}
    if account.start_s is None:
        return None
    return {"start_s": account.start_s, "how": account.start_how, "seen_s": None, "never": False}


def _in_its_way(snapshot: Snapshot, plan: Plan, job_id: str) -> Answer:
    job = next((job for job in snapshot.jobs if job.id == job_id), None)
    return {} if job is None else asdict(obstacles(snapshot, plan, job))


def known_job(context: Context, viewer: Viewer, job_id: str) -> JobRow:
    """The newest job of that id the viewer may see; a component's is that of the whole.

    Raises SlurmextError: there is none, or several parts of one.
    """
    rows = context.store.jobs(job_ids=[whole_id(job_id)], active=False)
    mine = [row for row in rows if viewer.sees_all or row.user == viewer.user]
    if mine:
        return mine[-1]
    visible = [row.job.job_id for row in context.store.jobs(active=True, user=None if viewer.sees_all else viewer.user)]
    tasks = [name for name in visible if name.startswith(f"{job_id}_")]
    if tasks:
        raise SlurmextError(f"job {job_id} has several parts; ask for one of them: {_few(tasks)}")
    own = "" if viewer.sees_all else f" of {viewer.user}"
    hint = f"; yours now: {_few(visible[::-1])}" if visible and own else ""
    raise SlurmextError(
        f"no job {job_id!r}{own} is known{hint or '; slurmext looks after jobs that were submitted to a queue'}"
        " ('slurmext job list --all'), for others ask 'scontrol show job'"
    )


def _few(job_ids: Sequence[str]) -> str:
    return ", ".join(job_ids[:_SHOWN]) + (" …" if len(job_ids) > _SHOWN else "")


def _leaving(action: ActionRecord) -> Answer:
    """Whoever waits may know which job leaves for it and from which queue, not whose it is."""
    return {
        "job": action.job.job_id,
        "state": action.state.value,
        "since_s": action.changed_s,
        "from_queue": action.detail.get("from_queue"),
        "gpus": action.detail.get("gpus"),
    }
