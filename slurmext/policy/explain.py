"""Why a job waits and what must happen, with the queues and numbers that decide it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slurmext.model.job import Job, JobState
from slurmext.model.node import NodeState
from slurmext.model.plan import Plan, Reason
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot

_HOLDING = frozenset({JobState.RUNNING, JobState.COMPLETING, JobState.SUSPENDED, JobState.UNKNOWN})
_NAMED = 5
"""So many victims are named; of more the number is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Books:
    """What every message draws on, counted once."""

    snapshot: Snapshot
    queues: Mapping[str, Queue]
    used: Mapping[str, int]
    user_used: Mapping[tuple[str, str], int]
    guaranteed: Mapping[str, int]
    free: Mapping[str, int]
    leaving: Mapping[str, tuple[str, ...]]


def messages(snapshot: Snapshot, plan: Plan) -> dict[str, str]:
    """One sentence for every pending job of the plan."""
    books = _books(snapshot, plan)
    jobs = {job.id: job for job in snapshot.jobs}
    return {job_id: _sentence(books, jobs[job_id], reason) for job_id, reason in plan.reasons.items()}


def explain(snapshot: Snapshot, plan: Plan, job_id: str) -> str:
    """What the plan means for one job: why it waits, what must happen, when it may start. Lines of text."""
    job = next((job for job in snapshot.jobs if job.id == job_id), None)
    if job is None:
        return f"Job {job_id} is not in the snapshot."
    release = next((release for release in plan.release if release.job == job_id), None)
    if release is not None:
        where = ", ".join(f"{part.gpus} on {part.node}" for part in release.placement)
        return f"Job {job_id} starts now on {release.queue_usage} GPUs of queue {job.queue}: {where}."
    evict = next((evict for evict in plan.evict if evict.job == job_id), None)
    if evict is not None:
        return (
            f"Job {job_id} must leave ({evict.reason}): queue {evict.from_queue} gives GPUs back to job"
            f" {evict.beneficiary} of queue {evict.to_queue}; {evict.lost_gpu_s:g} GPU s of work are in no checkpoint."
        )
    move = next((move for move in plan.move if move.job == job_id), None)
    if move is not None:
        where = ", ".join(part.node for part in move.target)
        return f"Job {job_id} moves to {where} so that job {move.beneficiary} fits."
    if job_id not in plan.reasons:
        return f"Job {job_id} is {job.state} in queue {job.queue} with {job.placed_gpus} GPUs and stays so."
    books = _books(snapshot, plan)
    reason = plan.reasons[job_id]
    start = _latest_start(books, job, reason)
    return f"Job {job_id} waits ({reason}): {_sentence(books, job, reason)}" + (f"\n{start}" if start else "")


def explain_queue(snapshot: Snapshot, plan: Plan, path: str) -> str:
    """Who borrows, who waits, and what the queue's fair share of the borrowable GPUs is and why. Lines of text."""
    books = _books(snapshot, plan)
    if path not in books.used:
        return f"There is no queue {path!r}; queues: {', '.join(sorted(books.used))}."
    queue, used, own = books.queues.get(path), books.used[path], books.guaranteed[path]
    total = sum(node.gpus for node in snapshot.nodes if node.state is NodeState.UP)
    siblings = [other for other in books.used if _parent(other) == _parent(path)]
    weights = {other: books.queues[other].weight if other in books.queues else 1.0 for other in siblings}
    above = _parent(path)
    pot = (total if above is None else books.guaranteed[above]) - sum(books.guaranteed[other] for other in siblings)
    share = own + max(0, pot) * weights[path] / sum(weights.values())
    waiting = [job for job in snapshot.jobs if job.id in plan.reasons and _within(job.queue, path)]
    borrowers = sorted(other for other in siblings if other != path and books.used[other] > books.guaranteed[other])
    lines = [
        f"Queue {path} uses {used} GPUs: {min(used, own)} of {own} guaranteed, {max(0, used - own)} borrowed"
        + (f", at most {queue.max}." if queue is not None and queue.max is not None else ", without a limit."),
        (
            f"Its fair share is {share:g} GPUs: its guarantee and {weights[path]:g}/{sum(weights.values()):g} of the"
            f" {max(0, pot)} that {above or 'the cluster'} has beyond guarantees."
        ),
        f"{len(waiting)} jobs wait for {sum(job.gpus for job in waiting)} GPUs"
        + (f": {', '.join(f'{count} {reason}' for reason, count in _reasons(plan, waiting))}." if waiting else "."),
    ]
    if borrowers:
        lent = ", ".join(f"{other} {books.used[other] - books.guaranteed[other]}" for other in borrowers)
        lines.append(f"Beside it, beyond their guarantee: {lent}.")
    return "\n".join(lines)


def _reasons(plan: Plan, jobs: Iterable[Job]) -> list[tuple[str, int]]:
    return Counter(plan.reasons[job.id].value for job in jobs).most_common()


def _sentence(books: _Books, job: Job, reason: Reason) -> str:
    need, queue = job.least_tasks * job.gpus_per_task, job.queue
    match reason:
        case Reason.QUEUE_MAX:
            path, limit = _limiting(books, queue, need)
            if need > limit:
                return f"it asks for {need} GPUs and queue {path} may never use more than {limit}; ask for fewer"
            return f"queue {path} uses {books.used[path]} of at most {limit} GPUs and the job needs {need}"
        case Reason.USER_MAX:
            return f"{job.user} holds as many GPUs in queue {queue} as one user may; the job needs {need} more"
        case Reason.OVER_GUARANTEE:
            own = f"{books.used.get(queue, 0)} of {books.guaranteed.get(queue, 0)}"
            return f"with --no-preempt it may use only guaranteed GPUs, and queue {queue} uses {own} of its own"
        case Reason.LENDING_LIMIT:
            return f"the queues with idle GPUs lend no more, and queue {queue} is beyond its guarantee"
        case Reason.QUEUE_FENCE:
            return f"a fence keeps queue {queue} from borrowing the {need} GPUs elsewhere"
        case Reason.NO_NODE_FITS:
            return f"no set of nodes that are up could hold {_shape(job)}, even if all were idle"
        case Reason.FRAGMENTED:
            return f"{_free(books)} GPUs are free, but not where {_shape(job)} would fit"
        case Reason.NO_FREE_GPUS:
            own = f"{books.used.get(queue, 0)} of its {books.guaranteed.get(queue, 0)} guaranteed"
            return f"it needs {need} GPUs, {_free(books)} are free, and queue {queue} uses {own}"
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
        case Reason.GROUP_MAX:
            return f"a group of {job.user} holds as many GPUs in queue {queue} as it may; the job needs {need} more"
        case Reason.HEADROOM:
            kept = books.snapshot.settings.headroom_gpus
            return f"{kept} GPUs stay free for bursts, {_free(books)} are free, and queue {queue} would borrow"
        case Reason.PRE_DRAIN:
            return f"queue {queue} gets smaller before the job's time limit is over; a shorter --time lets it start"
        case Reason.UNKNOWN_QUEUE:
            return (
                f"the policy has no queue {queue!r} for jobs" if queue else "it names no queue and no rule gives it one"
            )
        case _:
            return "Slurm's state of it is not known, so nothing is done"


def _victims(books: _Books, job: Job) -> str:
    victims = books.leaving.get(job.id, ())
    if not victims:
        return "GPUs become free"
    shown = ", ".join(victims[:_NAMED]) + (f" and {len(victims) - _NAMED} more" if len(victims) > _NAMED else "")
    return f"job{'s' if len(victims) > 1 else ''} {shown} {'make' if len(victims) > 1 else 'makes'} room"


def _shape(job: Job) -> str:
    tasks = f"{job.least_tasks} x " if job.least_tasks > 1 else ""
    kinds = f" of type {' or '.join(job.types)}" if job.types else ""
    return f"{tasks}{job.gpus_per_task} GPUs{kinds}"


def _limiting(books: _Books, path: str, need: int) -> tuple[str, int]:
    """The nearest queue whose limit the job would pass, and that limit."""
    for at in _lineage(path):
        queue = books.queues.get(at)
        if queue is not None and queue.max is not None and books.used[at] + need > queue.max:
            return at, queue.max
    limits = [(at, queue.max) for at in _lineage(path) if (queue := books.queues.get(at)) and queue.max is not None]
    return limits[0] if limits else (path, 0)


def _latest_start(books: _Books, job: Job, reason: Reason) -> str:
    """When it starts at the latest if running jobs use their whole time limit; empty when that cannot be said."""
    if reason in {Reason.RECLAIMING, Reason.PREEMPTING, Reason.CONSOLIDATING}:
        return f"Estimated start: within {books.snapshot.settings.grace_s:g} s."
    if reason not in {Reason.NO_FREE_GPUS, Reason.BEHIND_IN_QUEUE, Reason.FRAGMENTED, Reason.WAITING_NEAR_END}:
        return ""
    ends = sorted(
        (other.started_s + other.time_limit_s, other.placed_gpus)
        for other in books.snapshot.jobs
        if other.state is JobState.RUNNING and other.started_s is not None and other.time_limit_s is not None
    )
    free = _free(books)
    for end_s, gpus in ends:
        free += gpus
        if free >= job.gpus:
            wait_s = max(0, end_s - books.snapshot.now_s)
            return f"Estimated start: in {wait_s:.0f} s if running jobs use their time limits."
    return ""


def _free(books: _Books) -> int:
    return sum(max(0, gpus) for gpus in books.free.values())


def _books(snapshot: Snapshot, plan: Plan) -> _Books:
    used, user_used, leaving = Counter[str](), Counter[tuple[str, str]](), dict[str, list[str]]()
    free = {node.name: node.gpus for node in snapshot.nodes if node.state is NodeState.UP}
    placements = [(job, job.placement) for job in snapshot.jobs if job.state in _HOLDING]
    by_id = {job.id: job for job in snapshot.jobs}
    placements += [(by_id[release.job], release.placement) for release in plan.release]
    for job, placement in placements:
        gpus = sum(part.gpus for part in placement)
        for at in _lineage(job.queue):
            used[at] += gpus
        user_used[job.queue, job.user] += gpus
        for part in placement:
            if part.node in free:
                free[part.node] -= part.gpus
    queues = {queue.path: queue for queue in snapshot.queues}
    for path in {at for queue in queues for at in _lineage(queue)}:
        used.setdefault(path, 0)
    for job in snapshot.jobs:
        if job.evicting_for is not None:
            leaving.setdefault(job.evicting_for, []).append(job.id)
    for goer in (*plan.evict, *plan.move):
        leaving.setdefault(goer.beneficiary, []).append(goer.job)
    return _Books(
        snapshot=snapshot,
        queues=queues,
        used=used,
        user_used=user_used,
        guaranteed=_guarantees(queues, used),
        free=free,
        leaving={job: tuple(sorted(set(victims))) for job, victims in leaving.items()},
    )


def _guarantees(queues: Mapping[str, Queue], paths: Iterable[str]) -> dict[str, int]:
    """Each queue's guarantee; a parent without one has the sum of its children's."""
    found = dict[str, int]()
    children = dict[str | None, list[str]]()
    for path in paths:
        children.setdefault(_parent(path), []).append(path)
    for path in sorted(paths, key=lambda path: -path.count("/")):
        queue = queues.get(path)
        given = queue.guaranteed if queue is not None else None
        found[path] = sum(found[child] for child in children.get(path, ())) if given is None else given
    return found


def _lineage(path: str) -> list[str]:
    """`a/b/c`, `a/b`, `a`."""
    lines = [path]
    while (above := _parent(lines[-1])) is not None:
        lines.append(above)
    return lines


def _parent(path: str) -> str | None:
    above, _, _ = path.rpartition("/")
    return above or None


def _within(path: str, above: str) -> bool:
    return path == above or path.startswith(f"{above}/")
