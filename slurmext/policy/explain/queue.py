"""Who borrows, who waits, and what a queue's fair share is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from slurmext.model.job import Job
from slurmext.model.node import NodeState
from slurmext.model.plan import Plan
from slurmext.model.snapshot import Snapshot
from slurmext.policy.explain.books import above, books_of, within


def explain_queue(snapshot: Snapshot, plan: Plan, path: str) -> str:
    """Who borrows, who waits, and what the queue's fair share of the borrowable GPUs is and why. Lines of text."""
    books = books_of(snapshot, plan)
    if path not in books.used:
        return f"There is no queue {path!r}; queues: {', '.join(sorted(books.used))}."
    queue, used, own = books.queues.get(path), books.used[path], books.guaranteed[path]
    total = sum(node.gpus for node in snapshot.nodes if node.state is NodeState.UP)
    siblings = [other for other in books.used if above(other) == above(path)]
    weights = {other: books.queues[other].weight if other in books.queues else 1.0 for other in siblings}
    parent = above(path)
    pot = (total if parent is None else books.guaranteed[parent]) - sum(books.guaranteed[other] for other in siblings)
    share = own + max(0, pot) * weights[path] / sum(weights.values())
    waiting = [job for job in snapshot.jobs if job.id in plan.reasons and within(job.queue, path)]
    borrowers = sorted(other for other in siblings if other != path and books.used[other] > books.guaranteed[other])
    lines = [
        f"Queue {path} uses {used} GPUs: {min(used, own)} of {own} guaranteed, {max(0, used - own)} borrowed"
        + (f", at most {queue.max}." if queue is not None and queue.max is not None else ", without a limit."),
        (
            f"Its fair share is {share:g} GPUs: its guarantee and {weights[path]:g}/{sum(weights.values()):g} of the"
            f" {max(0, pot)} that {parent or 'the cluster'} has beyond guarantees."
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
