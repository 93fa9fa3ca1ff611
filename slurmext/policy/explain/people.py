"""Limits on users and groups in words: the limit, the queue it stands at, and who holds what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from slurmext.model.amounts import amount, counted
from slurmext.model.job import Job
from slurmext.policy.explain.books import Books, lineage

_NAMED = 5
"""So many members of a group are named; of more the number is told."""


def user_limit(books: Books, job: Job, need: float) -> str:
    """The nearest queue whose limit on the user the job would pass, and what the user holds there."""
    for at in lineage(job.queue):
        queue = books.queues.get(at)
        if queue is None:
            continue
        most = queue.users[job.user].max if job.user in queue.users else queue.each_user_max
        held = books.by_user.get((at, job.user), 0)
        if most is not None and need > most:
            return (
                f"it asks for {counted(need, 'GPU')} and {job.user} may never hold more than {most} in queue {at};"
                " ask for fewer"
            )
        if most is not None and held + need > most:
            return (
                f"{job.user} may hold {counted(most, 'GPU')} in queue {at} and holds {amount(held)};"
                f" the job needs {amount(need)}"
            )
    return f"{job.user} holds as many GPUs in queue {job.queue} as one user may; the job needs {amount(need)}"


def group_limit(books: Books, job: Job, need: float) -> str:
    """The nearest queue whose limit on a group of the user the job would pass, and who of the group holds what."""
    for at in lineage(job.queue):
        queue = books.queues.get(at)
        for group in () if queue is None else job.groups:
            most = queue.groups[group].max if queue is not None and group in queue.groups else None
            members = books.by_group.get((at, group), {})
            held = sum(members.values())
            if most is not None and need > most:
                asks = f"it asks for {counted(need, 'GPU')}"
                return f"{asks} and group {group} may never hold more than {most} in queue {at}"
            if most is not None and held + need > most:
                return (
                    f"group {group} may hold {counted(most, 'GPU')} in queue {at} and holds {held}{_named(members)};"
                    f" the job needs {amount(need)}"
                )
    return f"a group of {job.user} holds as many GPUs in queue {job.queue} as it may; the job needs {amount(need)}"


def _named(members: Mapping[str, int]) -> str:
    top = Counter(members).most_common(_NAMED)
    if not top:
        return ""
    more = f" and {len(members) - len(top)} more users" if len(members) > len(top) else ""
    return f" ({', '.join(f'{user} {gpus}' for user, gpus in top)}{more})"
