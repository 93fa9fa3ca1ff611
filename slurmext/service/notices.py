"""What owners of running jobs are told will happen to them: a plan's notes, as the store keeps them.

Each is an event in the job's timeline and shown by `slurmext job`. Who would not look there is told in the job's own
output: idle jobs are those of people who forgot them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from slurmext.model.job import JobState
from slurmext.model.plan import Note, Plan, Reason
from slurmext.model.state import Event, Notice
from slurmext.policy.explain.leaving import why_told
from slurmext.service.observe import Observation

MOST_WARNED = 50
"""Idle jobs first warned in one cycle: each costs a command. The others are in the next one, and leave later."""


def notices_of(notes: Iterable[Note], observation: Observation, standing: Sequence[Notice], now: float) -> list[Notice]:
    """The notices that stand after a plan with these notes; who was told before keeps the time of that."""
    since = {(notice.job, notice.reason): notice.since_s for notice in standing}
    found = list[Notice]()
    warned = 0
    for note in notes:
        known = observation.known.get(note.job)
        if known is not None:
            if note.reason is Reason.IDLE_GPUS and (known.key, note.reason.value) not in since:
                warned += 1
                if warned > MOST_WARNED:
                    continue
            since_s = since.get((known.key, note.reason.value), now)
            found.append(
                Notice(
                    job=known.key,
                    reason=note.reason.value,
                    since_s=since_s,
                    at_s=float(note.at_s),
                    message=why_told(note.reason, known.queue or ""),
                )
            )
    return found


def first_told(
    before: Iterable[Notice], now: Iterable[Notice], observation: Observation
) -> Iterator[tuple[Event, str]]:
    """An event for each new notice, and what to write into the job's output (empty: nothing)."""
    old = {(notice.job, notice.reason) for notice in before}
    now_s = observation.snapshot.now_s
    written = 0
    for notice in now:
        job_id = notice.job.job_id
        if (notice.job, notice.reason) in old or job_id not in observation.known:
            continue
        detail = {"reason": notice.reason, "at_s": notice.at_s}
        words = ""
        minutes = max(1, round((notice.at_s - now_s) / 60))
        if notice.reason in {Reason.QUOTA_CUT.value, Reason.QUEUE_REMOVED.value} and written < MOST_WARNED:
            written += 1
            words = f"slurmext: {notice.message}: this job is requeued in about {minutes} min unless others end before."
        if notice.reason == Reason.IDLE_GPUS.value:
            words = (
                f"slurmext: {notice.message}, else it is requeued in about {minutes} min."
                f" To keep it: slurmext job extend {job_id} --for 1h"
            )
        message = f"{notice.reason}: {notice.message}"
        yield Event(at_s=now_s, source="daemon", kind="notice", job_id=job_id, message=message, detail=detail), words


def over(before: Iterable[Notice], now: Iterable[Notice], plan: Plan, observation: Observation) -> Iterator[Event]:
    """An event for each notice that stands no more although its job stays."""
    still = {(notice.job, notice.reason) for notice in now}
    leaving = {evict.job for evict in plan.evict} | {move.job for move in plan.move}
    for notice in before:
        known = observation.known.get(notice.job.job_id)
        if (notice.job, notice.reason) in still or known is None or known.record.state is not JobState.RUNNING:
            continue
        if known.key == notice.job and notice.job.job_id not in leaving:
            yield Event(
                at_s=observation.snapshot.now_s,
                source="daemon",
                kind="notice.over",
                job_id=notice.job.job_id,
                message=f"{notice.reason}: it need not leave for this any more",
                detail={"reason": notice.reason},
            )
