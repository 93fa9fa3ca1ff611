"""The world counted once, for every message about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from slurmext.model.job import HOLDING, Job, JobState, Placement, Seconds
from slurmext.model.node import NodeState
from slurmext.model.plan import Plan
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """What every message draws on, counted once.

    `by_user` and `by_group` (GPUs per member) are there for queues that limit people. `next_change_s` is when a
    calendar changes the next queue. `capped` is how many jobs count under each cap. `used` and `by_user` count slices
    by their part of a GPU; `sliced` is how much of `used` they are.
    """

    snapshot: Snapshot
    queues: Mapping[str, Queue]
    used: Mapping[str, float]
    by_user: Mapping[tuple[str, str], float]
    by_group: Mapping[tuple[str, str], Mapping[str, int]]
    guaranteed: Mapping[str, int]
    free: Mapping[str, int]
    leaving: Mapping[str, tuple[str, ...]]
    next_change_s: Seconds | None = None
    capped: Mapping[str, int] = field(default_factory=dict[str, int])
    sliced: Mapping[str, float] = field(default_factory=dict[str, float])


def free_gpus(books: Books) -> int:
    """GPUs idle on nodes that are up."""
    return sum(max(0, gpus) for gpus in books.free.values())


def placements(snapshot: Snapshot, plan: Plan) -> Iterator[tuple[Job, Placement]]:
    """Who holds which GPUs once the plan's releases have started; victims still hold theirs."""
    for job in snapshot.jobs:
        if job.state in HOLDING:
            yield job, job.placement
    by_id = {job.id: job for job in snapshot.jobs} if plan.release else {}
    for release in plan.release:
        yield by_id[release.job], release.placement


def books_of(snapshot: Snapshot, plan: Plan) -> Books:
    """Count the world as the plan leaves it: released jobs hold their GPUs, victims still theirs."""
    capped = Counter[str]()
    used, by_user = dict[str, float](), dict[tuple[str, str], float]()
    sliced, leaving = dict[str, float](), dict[str, list[str]]()
    by_group = dict[tuple[str, str], Counter[str]]()
    limiting = {q.path for q in snapshot.queues if q.users or q.groups or q.each_user_max is not None}
    free = {node.name: node.gpus for node in snapshot.nodes if node.state is NodeState.UP}
    for job, placement in placements(snapshot, plan):
        gpus = sum(part.gpus for part in placement)
        if job.caps and job.state is not JobState.COMPLETING:
            capped.update(cap.name for cap in job.caps)
        for at in lineage(job.queue):
            used[at] = used.get(at, 0) + gpus
            if at in limiting:
                by_user[at, job.user] = by_user.get((at, job.user), 0) + gpus
                for group in job.groups:
                    by_group.setdefault((at, group), Counter())[job.user] += gpus
        for part in placement:
            if part.node in free:
                free[part.node] -= part.gpus
    for queue, user, part in parts_of(snapshot):
        for at in lineage(queue):
            sliced[at] = sliced.get(at, 0) + part
            by_user[at, user] = by_user.get((at, user), 0) + part
    for at, part in sliced.items():
        used[at] = used.get(at, 0) + part
    queues = {queue.path: queue for queue in snapshot.queues}
    for path in {at for queue in queues for at in lineage(queue)}:
        used.setdefault(path, 0)
    for job in snapshot.jobs:
        if job.evicting_for:
            leaving.setdefault(job.evicting_for, []).append(job.id)
    for goer in (goer for goer in (*plan.evict, *plan.move) if goer.beneficiary):
        leaving.setdefault(goer.beneficiary, []).append(goer.job)
    return Books(
        snapshot=snapshot,
        queues=queues,
        used=used,
        by_user=by_user,
        by_group=by_group,
        guaranteed=_guarantees(queues, used),
        free=free,
        leaving={job: tuple(sorted(set(victims))) for job, victims in leaving.items()},
        next_change_s=min((queue.changes[0].at_s for queue in snapshot.queues if queue.changes), default=None),
        capped=capped,
        sliced=sliced,
    )


def parts_of(snapshot: Snapshot) -> Iterator[tuple[str, str, float]]:
    """Queue, user, and what they have of GPUs in slices."""
    for queue, users in snapshot.sliced.items():
        for user, part in users.items():
            yield queue, user, part


def _guarantees(queues: Mapping[str, Queue], paths: Iterable[str]) -> dict[str, int]:
    """Each queue's guarantee; a parent without one has the sum of its children's."""
    found = dict[str, int]()
    children = dict[str | None, list[str]]()
    for path in paths:
        children.setdefault(above(path), []).append(path)
    for path in sorted(paths, key=lambda path: -path.count("/")):
        queue = queues.get(path)
        given = queue.guaranteed if queue is not None else None
        found[path] = sum(found[child] for child in children.get(path, ())) if given is None else given
    return found


def lineage(path: str) -> list[str]:
    """`a/b/c`, `a/b`, `a`."""
    lines = [path]
    while (parent := above(lines[-1])) is not None:
        lines.append(parent)
    return lines


def above(path: str) -> str | None:
    """`a/b` -> `a`; None for a queue at the top."""
    parent, _, _ = path.rpartition("/")
    return parent or None


def within(path: str, other: str) -> bool:
    """Whether the queue is `other` or below it."""
    return path == other or path.startswith(f"{other}/")
