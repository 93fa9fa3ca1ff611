"""What owners of running jobs are told will happen to them: a plan's notes, as the store keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from slurmext.model.plan import Note, Reason
from slurmext.model.state import Notice
from slurmext.service.observe import Observation


def notices_of(notes: Iterable[Note], observation: Observation, standing: Sequence[Notice], now: float) -> list[Notice]:
    """The notices that stand after a plan with these notes; who was told before keeps the time of that."""
    since = {(notice.job, notice.reason): notice.since_s for notice in standing}
    found = list[Notice]()
    for note in notes:
        known = observation.known.get(note.job)
        if known is not None:
            since_s = since.get((known.key, note.reason.value), now)
            found.append(
                Notice(
                    job=known.key,
                    reason=note.reason.value,
                    since_s=since_s,
                    at_s=float(note.at_s),
                    message=_message(note.reason, known.queue or ""),
                )
            )
    return found


def _message(reason: Reason, queue: str) -> str:
    match reason:
        case Reason.QUOTA_CUT:
            return f"queue {queue}, or one above it, uses more than its max, which was made smaller"
        case Reason.QUEUE_REMOVED:
            return f"queue {queue} was removed from the policy"
        case Reason.PRE_DRAIN:
            return f"the calendar makes queue {queue} smaller, or gives others more: its GPUs may be taken back then"
        case _:
            return ""
