"""Why a running job leaves, or will have to, in the words of its queue."""

from __future__ import annotations

from slurmext.model.plan import Evict, EvictAction, Move, Reason


def why_evicted(evict: Evict) -> str:
    """Why this job leaves now."""
    if evict.reason is Reason.IDLE_GPUS:
        return f"all its GPUs stayed idle for longer than queue {evict.from_queue} allows, after a warning"
    if not evict.beneficiary:
        return why_smaller(evict.reason, evict.from_queue)
    shrinks = " and goes on with fewer tasks" if evict.action is EvictAction.SHRINK else ""
    return f"makes room for job {evict.beneficiary}{shrinks}"


def why_moved(move: Move) -> str:
    """Why this job goes on elsewhere."""
    if move.beneficiary:
        return f"moves so that job {move.beneficiary} fits"
    return "moves to a node that is in use anyway, so that a whole node is free"


def why_told(reason: Reason, queue: str) -> str:
    """Why a job of this queue is told that it may have to leave."""
    match reason:
        case Reason.PRE_DRAIN:
            return f"the calendar makes queue {queue} smaller, or gives others more: its GPUs may be taken back then"
        case Reason.IDLE_GPUS:
            return f"all its GPUs have been idle for longer than queue {queue} allows; it stays if they work again"
        case _:
            return why_smaller(reason, queue)


def why_smaller(reason: Reason, queue: str) -> str:
    """What became of the queue; empty when nothing did."""
    match reason:
        case Reason.QUOTA_CUT:
            return f"queue {queue}, or one above it, uses more than its max, which was made smaller"
        case Reason.QUEUE_REMOVED:
            return f"queue {queue} was removed from the policy"
        case _:
            return ""
