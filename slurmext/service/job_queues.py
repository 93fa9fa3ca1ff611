"""Which queue each job is in, and the queues that are there because a job is in them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from slurmext.model.cluster import JobRecord
from slurmext.model.job import Job
from slurmext.model.policy import Policy
from slurmext.model.queue import Queue
from slurmext.model.slicing import SliceJob
from slurmext.model.snapshot import Snapshot


class Groups:
    """Users' Unix groups, each user asked for once."""

    def __init__(self, groups_of: Callable[[str], Sequence[str]]) -> None:
        self._groups_of = groups_of
        self._known = dict[str, Sequence[str]]()
        self._named = dict[str, tuple[str, ...]]()

    def of(self, user: str) -> Sequence[str]:
        """All groups of the user, the primary one first."""
        if user not in self._known:
            self._known[user] = self._groups_of(user)
        return self._known[user]

    def named(self, user: str, limited: Collection[str]) -> tuple[str, ...]:
        """Those of the user's groups that are among `limited`."""
        if user not in self._named:
            self._named[user] = tuple(sorted({group for group in self.of(user) if group in limited}))
        return self._named[user]


def queue_of(record: JobRecord, policy: Policy, everybody: Groups) -> str | None:
    """Path of its queue: the one it names if it may, else the one the policy has for it; None: none."""
    note = record.annotation
    asked = note.queue if note else None
    if asked is not None and (note is None or note.held or policy.dynamic_queue(asked) is None):
        return asked
    # Nobody looked at a job that passed while the daemon was away: it makes no queue that is not its user's.
    if asked is not None and asked.rpartition("/")[2] == record.user:
        return asked
    return policy.queue_of(
        asked=None,
        user=record.user,
        account=record.account,
        partition=record.partition,
        groups=everybody.of(record.user),
    )


def under(snapshot: Snapshot, policy: Policy) -> Snapshot:
    """The snapshot under another policy; each job keeps its queue."""
    queues = (*policy.queues, *dynamic_queues(snapshot.jobs, policy))
    settings = replace(policy.settings, fences_stand=True)
    return replace(snapshot, settings=settings, queues=queues, removed=removed_queues(snapshot.jobs, queues, policy))


def removed_queues(jobs: Sequence[Job], queues: Sequence[Queue], policy: Policy) -> dict[str, float]:
    """Queues of these jobs that the policy has no more, and when the jobs must leave."""
    if not policy.removed:
        return {}
    found = dict[str, float]()
    for path in sorted({job.queue for job in jobs} - {queue.path for queue in queues}):
        at_s = policy.removed.get(path, policy.removed.get(f"{path.rpartition('/')[0]}/*"))
        if at_s is not None:
            found[path] = at_s
    return found


def dynamic_queues(jobs: Sequence[Job | SliceJob], policy: Policy) -> list[Queue]:
    """Queues that exist because a job is in them."""
    paths = {job.queue for job in jobs} - policy.paths if policy.dynamic else ()
    found = (policy.dynamic_queue(path) for path in sorted(paths))
    return [queue for queue in found if queue is not None]
