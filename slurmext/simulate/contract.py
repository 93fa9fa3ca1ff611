"""Was the guarantee kept? Demand within it, and how long it waited.

A job is *guaranteed demand* while it may start, and fits together with those before it in its queue (by priority,
then submission; one that does not fit is passed over) into what its queue is guaranteed and does not use. Jobs that
reached a limit of their user or queue, or that no node could ever hold, are none. A *breach* is such a job that stays
guaranteed demand for longer than the grace, its queue's `preemption_delay_s` and 5 s, from the plan that first saw
it so until it starts.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from slurmext.model.job import Job
from slurmext.model.plan import Reason
from slurmext.policy.caps import CAP_REASONS
from slurmext.policy.ledger import Usage
from slurmext.policy.tree import QueueTree

SLACK_S = 5.0
"""What a guarantee may take beyond the grace."""

_LIMITS = frozenset({Reason.QUEUE_MAX, Reason.USER_MAX, Reason.GROUP_MAX})
_NO_DEMAND = _LIMITS | {*CAP_REASONS.values(), Reason.NO_NODE_FITS, Reason.NOT_ELIGIBLE, Reason.UNKNOWN_QUEUE}
"""Waiting for one of these is nobody's breach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """Guaranteed demand that waited `waited_s` seconds until `at_s`; `reason` is the last one it was given."""

    job: str
    queue: str
    at_s: float
    waited_s: float
    reason: str


class Line:
    """The waiting jobs of one queue, in order."""

    __slots__ = ("_entries", "_jobs")

    def __init__(self) -> None:
        self._entries: list[tuple[int, float, str]] = []
        self._jobs: dict[str, Job] = {}

    def __iter__(self) -> Iterator[Job]:
        return (self._jobs[entry[2]] for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, job: Job) -> None:
        """The job waits."""
        insort(self._entries, _place(job))
        self._jobs[job.id] = job

    def remove(self, job_id: str) -> None:
        """It does not wait any more."""
        entry = _place(self._jobs.pop(job_id))
        del self._entries[bisect_left(self._entries, entry)]


def _place(job: Job) -> tuple[int, float, str]:
    return -job.priority, float(job.submitted_s), job.id


@dataclass(slots=True)
class Contract:
    """Follows the jobs of a simulation and notes every breach. `grace_s` is the site's."""

    grace_s: float
    breaches: list[Breach] = field(default_factory=list[Breach])
    longest_s: dict[str, float] = field(default_factory=dict[str, float])
    """The longest that guaranteed demand of each queue waited."""

    _lines: dict[str, Line] = field(default_factory=dict[str, Line])
    _holds: dict[str, tuple[Job, dict[str, int]]] = field(default_factory=dict[str, tuple[Job, dict[str, int]]])
    _since: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    _last: dict[str, str] = field(default_factory=dict[str, str])
    _tree: QueueTree = field(init=False)
    _used: Usage = field(init=False)

    def policy(self, tree: QueueTree) -> None:
        """These are the queues from now on."""
        self._tree, self._used = tree, Usage(tree)
        for job, by_type in self._holds.values():
            self._count(job, by_type, 1)

    def waits(self, job: Job) -> None:
        """The job may start and has no GPUs."""
        self._lines.setdefault(job.queue, Line()).add(job)

    def starts(self, job: Job, now_s: float) -> None:
        """A job that waited has GPUs now."""
        self._lines[job.queue].remove(job.id)
        self._settle(job.queue, job.id, now_s)

    def holds(self, job: Job, by_type: dict[str, int]) -> None:
        """The job has these GPUs now, more or fewer than before, or none."""
        before = self._holds.pop(job.id, None)
        if before is not None:
            self._count(*before, -1)
        if by_type:
            self._holds[job.id] = (job, by_type)
            self._count(job, by_type, 1)

    def look(self, now_s: float, reasons: Mapping[str, Reason]) -> None:
        """What is guaranteed demand after this plan; call it once everything that happened is told."""
        for path, line in self._lines.items():
            leaf, known = self._tree.leaf_of.get(path), self._since.get(path, {})
            due = dict.fromkeys(self._due(leaf, line, reasons)) if line and leaf is not None else {}
            for job_id in [job_id for job_id in known if job_id not in due]:
                self._settle(path, job_id, now_s)
            for job_id in due:
                self._since.setdefault(path, {}).setdefault(job_id, now_s)
                self._last[job_id] = reasons.get(job_id, Reason.NO_FREE_GPUS).value

    def borrowed(self) -> dict[str, int]:
        """GPUs that every queue uses beyond its guarantee, by path."""
        nodes, total = self._tree.nodes, self._used.total
        return {path: max(0, total[index] - nodes[index].guaranteed) for path, index in self._tree.by_path.items()}

    def finish(self, now_s: float) -> list[Breach]:
        """All breaches, with those of jobs that still wait at the end."""
        for path, known in self._since.items():
            for job_id in list(known):
                self._settle(path, job_id, now_s)
        return self.breaches

    def _due(self, leaf: int, line: Line, reasons: Mapping[str, Reason]) -> Iterator[str]:
        node, used = self._tree.nodes[leaf], self._used
        room = used.guarantee_room(node, None)
        rooms = {kind: used.guarantee_room(node, kind) - room for kind in node.type_guaranteed}
        left = room + sum(rooms.values())
        for job in line if left > 0 else ():
            gpus = job.least_tasks * job.gpus_per_task
            if gpus > left or gpus <= 0 or reasons.get(job.id) in _NO_DEMAND:
                continue
            kind = next((k for k in job.types or rooms or ("",) if rooms.get(k, 0) + room >= gpus), None)
            if kind is None:
                continue
            own = min(gpus, rooms.get(kind, 0))
            if own:
                rooms[kind] -= own
            room -= gpus - own
            left -= gpus
            yield job.id
            if left <= 0:
                return

    def _settle(self, path: str, job_id: str, now_s: float) -> None:
        """The job is no guaranteed demand any more: it runs, or its queue has other uses for what it is guaranteed."""
        since_s = self._since.get(path, {}).pop(job_id, None)
        reason = self._last.pop(job_id, "")
        if since_s is None:
            return
        waited_s = now_s - since_s
        self.longest_s[path] = max(self.longest_s.get(path, 0.0), waited_s)
        leaf = self._tree.leaf_of.get(path)
        delay_s = 0.0 if leaf is None else self._tree.nodes[leaf].preemption_delay_s
        if waited_s > self.grace_s + delay_s + SLACK_S:
            self.breaches.append(Breach(job=job_id, queue=path, at_s=now_s, waited_s=waited_s, reason=reason))

    def _count(self, job: Job, by_type: dict[str, int], sign: int) -> None:
        leaf = self._tree.leaf_of.get(job.queue)
        if leaf is not None:
            self._used.add(leaf, job, by_type, sign=sign)
