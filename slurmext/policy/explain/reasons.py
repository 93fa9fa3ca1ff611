"""The one sentence for every reason a job waits, with the queues and numbers that decide."""

from __future__ import annotations

from collections import Counter

from slurmext.model.amounts import amount, counted
from slurmext.model.job import CapKind, Job, Seconds
from slurmext.model.plan import Reason
from slurmext.policy.caps import cap_sentence
from slurmext.policy.explain.books import Books, above, free_gpus, lineage
from slurmext.policy.explain.people import group_limit, user_limit
from slurmext.policy.explain.slices import SLICE_SENTENCES

_NAMED = 5
"""So many victims are named; of more the number is told."""


def sentence(books: Books, job: Job, reason: Reason, need: float | None = None) -> str:
    """Why this pending job waits, for its one reason. `need`: GPUs that it counts as; by itself what it asks for."""
    queue, need = job.queue, job.least_tasks * job.gpus_per_task if need is None else need
    match reason:
        case Reason.QUEUE_MAX:
            path, limit = limiting_queue(books, queue, need)
            if need > limit:
                larger = _larger_at(books, path, need)
                if larger is not None:
                    wait = f"in {duration(larger - books.snapshot.now_s)} the calendar lets it use more"
                    return f"it asks for {counted(need, 'GPU')} and queue {path} may use {limit} now; {wait}"
                asks = f"it asks for {counted(need, 'GPU')}"
                return f"{asks} and queue {path} may never use more than {limit}; ask for fewer"
            uses = f"queue {path} uses {amount(books.used[path])} of at most {counted(limit, 'GPU')}"
            return f"{uses}{_in_slices(books, path, need, limit)} and the job needs {amount(need)}"
        case Reason.USER_MAX:
            return user_limit(books, job, need)
        case Reason.OVER_GUARANTEE:
            owner = _owner(books, queue)
            own = f"{amount(books.used.get(owner, 0))} of {books.guaranteed.get(owner, 0)}"
            return f"with --no-preempt it may use only guaranteed GPUs, and queue {owner} uses {own} of its own"
        case Reason.LENDING_LIMIT:
            return f"the queues with idle GPUs lend no more, and queue {queue} is beyond its guarantee"
        case Reason.QUEUE_FENCE:
            return f"a fence keeps queue {queue} from borrowing the {counted(need, 'GPU')} elsewhere"
        case Reason.NO_NODE_FITS:
            return _no_such_type(books, job) or (
                f"no set of nodes that are up could hold {_shape(job)}{_where(job)}, even if no job of any queue ran"
            )
        case Reason.FRAGMENTED:
            free = free_gpus(books)
            return f"{counted(free, 'GPU')} {'is' if free == 1 else 'are'} free, but not where {_shape(job)} would fit"
        case Reason.NO_FREE_GPUS:
            owner = _owner(books, queue)
            own = f"uses {amount(books.used.get(owner, 0))} ({books.guaranteed.get(owner, 0)} guaranteed)"
            free = f"{free_gpus(books)} {'is' if free_gpus(books) == 1 else 'are'} free"
            return f"it needs {counted(need, 'GPU')}, {free}, and queue {owner} {own}"
        case Reason.BEHIND_IN_QUEUE:
            return f"jobs before it in queue {queue} or owed to other queues take what is free"
        case Reason.RECLAIMING | Reason.PREEMPTING | Reason.CONSOLIDATING:
            return f"{_victims(books, job)} for it, each within {books.snapshot.settings.grace_s:g} s"
        case Reason.WAITING_NEAR_END:
            return f"running jobs end within {books.snapshot.settings.near_end_s:g} s, which beats evicting others"
        case Reason.NOT_ELIGIBLE:
            wait = (job.eligible_s or 0) - books.snapshot.now_s
            return job.blocked or (
                f"it may start in {wait:.0f} s at the earliest" if wait > 0 else "it may not start yet"
            )
        case Reason.ARRAY_MAX:
            return cap_sentence(job, CapKind.ARRAY, books.capped)
        case Reason.SLURM_LIMIT:
            return cap_sentence(job, CapKind.SLURM, books.capped)
        case Reason.GROUP_MAX:
            return group_limit(books, job, need)
        case Reason.HEADROOM:
            kept = books.snapshot.settings.headroom_gpus
            free = free_gpus(books)
            stay = f"{counted(kept, 'GPU')} {'stays' if kept == 1 else 'stay'} free for bursts"
            return f"{stay}, {free} {'is' if free == 1 else 'are'} free, and queue {queue} would borrow"
        case Reason.PRE_DRAIN:
            return (
                f"the calendar makes queue {queue} smaller, or gives others more, before the job's time limit is over"
                f"{_short_enough(books)}"
            )
        case Reason.UNKNOWN_QUEUE:
            return (
                f"the policy has no queue {queue!r} for jobs" if queue else "it names no queue and no rule gives it one"
            )
        case _ if reason in SLICE_SENTENCES:
            return SLICE_SENTENCES[reason]
        case _:
            return "Slurm's state of it is not known, so nothing is done"


def _owner(books: Books, path: str) -> str:
    """The queue whose guarantee the queue's jobs use: its parent's where it has none of its own."""
    queue = books.queues.get(path)
    return (above(path) or path) if queue is not None and queue.shares_guarantee else path


def _victims(books: Books, job: Job) -> str:
    victims = books.leaving.get(job.id, ())
    if not victims:
        return "GPUs become free"
    shown = ", ".join(victims[:_NAMED]) + (f" and {len(victims) - _NAMED} more" if len(victims) > _NAMED else "")
    return f"job{'s' if len(victims) > 1 else ''} {shown} {'make' if len(victims) > 1 else 'makes'} room"


def _shape(job: Job) -> str:
    tasks = f"{job.least_tasks} x " if job.least_tasks > 1 else ""
    kinds = f" of type {' or '.join(job.types)}" if job.types else ""
    return f"{tasks}{counted(job.gpus_per_task, 'GPU')}{kinds}"


def _where(job: Job) -> str:
    return " on one node" if job.least_tasks == 1 < job.gpus_per_task else ""


def _no_such_type(books: Books, job: Job) -> str:
    """That no node, up or not, has a GPU of the types it accepts; empty when one has."""
    there = Counter[str]()
    for node in books.snapshot.nodes:
        there[node.gpu_type] += node.gpus
    if not job.types or any(kind in there for kind in job.types):
        return ""
    known = ", ".join(f"{kind} ({gpus})" for kind, gpus in sorted(there.items()) if gpus)
    return f"no node here has a GPU of type {' or '.join(job.types)}; there are {known or 'no GPUs'}"


def _in_slices(books: Books, path: str, need: float, limit: int) -> str:
    """How much of the queue's use slices are, where there are some."""
    part = books.sliced.get(path, 0)
    if not part:
        return ""
    rounded = " and rounded up to whole ones here" if books.used[path] + need <= limit else ""
    return f", {amount(part)} of them in slices{rounded},"


def limiting_queue(books: Books, path: str, need: float) -> tuple[str, int]:
    """The nearest queue whose limit the job would pass, and that limit."""
    for at in lineage(path):
        queue = books.queues.get(at)
        if queue is not None and queue.max is not None and books.used[at] + need > queue.max:
            return at, queue.max
    limits = [(at, queue.max) for at in lineage(path) if (queue := books.queues.get(at)) and queue.max is not None]
    return limits[0] if limits else (path, 0)


def _short_enough(books: Books) -> str:
    """The longest --time that no change comes before; empty when the next one is too near."""
    minutes = 0 if books.next_change_s is None else int(books.next_change_s - books.snapshot.now_s) // 60
    return f"; a --time of at most {minutes} minutes lets it start" if minutes > 0 else ""


def _larger_at(books: Books, path: str, need: float) -> Seconds | None:
    """When the calendar next gives the queue a max that holds so many GPUs; None when nothing is known to."""
    changes = books.queues[path].changes if path in books.queues else ()
    return next((change.at_s for change in changes if change.max is None or change.max >= need), None)


def duration(span_s: Seconds) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    minutes = int(span_s) // 60
    if minutes == 0:
        return f"{span_s:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"  # noqa: PLR2004
