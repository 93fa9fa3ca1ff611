"""Idle GPUs: a job none of whose GPUs works is warned, given time, and leaves unless they work again.

A queue asks for it (`Queue.idle`). `borrowed` takes a job only while its queue uses more than it is guaranteed; the
longest idle one goes first. What an agent does not know for sure is not in the snapshot, and nothing is done about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurmext.model.job import Job, JobState, Seconds
from slurmext.model.plan import Reason
from slurmext.model.queue import IdleAction, IdleRule
from slurmext.policy.ledger import Usage
from slurmext.policy.victims import spared

if TYPE_CHECKING:
    from slurmext.policy.departures import Scene


def idle_gpus(scene: Scene) -> None:
    """Jobs that idle longer than their queue allows are told when they will leave, and leave then."""
    rules = {queue.path: queue.idle for queue in scene.snapshot.queues if queue.idle is not None}
    if not rules:
        return
    now_s = scene.snapshot.now_s
    found: list[tuple[Seconds, str, Job]] = []
    for job in scene.snapshot.jobs:
        if job.idle_since_s is None:
            continue
        rule = rules.get(job.queue)
        if rule is None or not _is_meant(scene, job):
            continue
        warned_s = max(job.idle_since_s + rule.after_s, job.keep_until_s or 0)
        if warned_s <= now_s:
            found.append((max(warned_s + rule.grace_s, _ran_enough_s(scene, job)), job.id, job))
    books = _Guarantees(scene) if any(rules[job.queue].action is IdleAction.BORROWED for _, _, job in found) else None
    for leaves_s, _, job in sorted(found, key=lambda one: one[:2]):
        if books is not None and not books.let_go(job, rules[job.queue]):
            continue
        if leaves_s > now_s:
            scene.note(job, Reason.IDLE_GPUS, leaves_s)
        elif scene.may_leave(job):
            scene.leave(job, Reason.IDLE_GPUS)


def _is_meant(scene: Scene, job: Job) -> bool:
    """Whether the job would ever leave for this: nobody is warned of what will not happen."""
    running = job.state is JobState.RUNNING and job.evicting_for is None and job.id not in scene.going
    return running and spared(job, scene.snapshot.settings, scene.snapshot.now_s, 0) is None


def _ran_enough_s(scene: Scene, job: Job) -> Seconds:
    """When the job has run for its queue's min_runtime_s."""
    leaf = scene.tree.leaf_of.get(job.queue)
    least_s = 0 if leaf is None else scene.tree.nodes[leaf].min_runtime_s
    return 0 if job.started_s is None else job.started_s + least_s


class _Guarantees:
    """What stays in each queue, to see whether it is above what the queue is guaranteed."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._usage = scene, Usage(scene.tree)
        for job in scene.snapshot.jobs:
            if job.state is JobState.RUNNING and job.evicting_for is None and job.id not in scene.going:
                self._count(job, sign=1)

    def let_go(self, job: Job, rule: IdleRule) -> bool:
        """Whether the job may leave (or be told so); it is then counted as gone."""
        tree = self._scene.tree
        leaf = tree.leaf_of.get(job.queue)
        if leaf is None:
            return False
        node = tree.nodes[leaf]
        own = tree.own(node.index)
        if rule.action is IdleAction.BORROWED and self._usage.floating(own) <= own.floating:
            return False
        self._count(job, sign=-1)
        return True

    def _count(self, job: Job, *, sign: int) -> None:
        leaf = self._scene.tree.leaf_of.get(job.queue)
        if leaf is not None:
            self._usage.add(leaf, job, self._scene.nodes.by_type(self._scene.nodes.parts(job.placement)), sign=sign)
