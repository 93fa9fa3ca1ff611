"""Evictions that nobody in particular gains from: a queue was removed, a queue's max was cut, GPUs idle.

They are settled before anybody who waits is asked. The rest of the plan sees those jobs as told to go already: their
GPUs come free by themselves, and whoever waits may be promised them.

A rule is a function from the `Scene` that calls its `leave` and `note`; RULES lists them. Later rules see who leaves by
earlier ones. `told` is what the snapshot looks like to everybody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from slurmext.model.job import Job, JobState, Seconds
from slurmext.model.plan import Evict, EvictAction, Note, Reason
from slurmext.model.snapshot import Snapshot
from slurmext.policy.cuts import cut_queues
from slurmext.policy.drain import drain_notes
from slurmext.policy.idle import idle_gpus
from slurmext.policy.supply import NodeTable
from slurmext.policy.tree import QueueTree
from slurmext.policy.victims import lost_seconds, shrunk, spared

WITHOUT_BENEFICIARY = frozenset({Reason.QUOTA_CUT, Reason.QUEUE_REMOVED, Reason.IDLE_GPUS})
"""The reasons for which a job may leave although nobody in particular gains."""

BEHIND_OTHERS = frozenset({Reason.IDLE_GPUS})
"""The reasons for which a job comes back behind those who wait already, as if it were submitted then."""

SURPLUS = "/surplus"
"""Ends the id of the part of a shrinking job that is on its way out, where the rest of the plan sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Departures:
    """Who leaves for nobody in particular, and who is told that it will have to."""

    evict: tuple[Evict, ...] = ()
    note: tuple[Note, ...] = ()


class Scene:
    """The snapshot, looked up as far as a rule asks for it, and what the rules found so far."""

    def __init__(self, snapshot: Snapshot, *, tree: QueueTree, nodes: NodeTable) -> None:
        self.snapshot, self.tree, self.nodes = snapshot, tree, nodes
        self.going: dict[str, Evict] = {}
        self.notes: dict[tuple[str, Reason], Note] = {}

    def may_leave(self, job: Job) -> bool:
        """Whether a rule may touch the job: it runs on known nodes, nobody told it to go yet, and nothing spares it."""
        if job.state is not JobState.RUNNING or job.evicting_for is not None or job.id in self.going:
            return False
        if job.gpus_per_task <= 0 or not job.placement:
            return False
        numbers = [self.nodes.by_name.get(part.node) for part in job.placement]
        if any(number is None or not self.nodes.known >> number & 1 for number in numbers):
            return False
        leaf = self.tree.leaf_of.get(job.queue)
        min_runtime_s = 0 if leaf is None else self.tree.nodes[leaf].min_runtime_s
        return spared(job, self.snapshot.settings, self.snapshot.now_s, min_runtime_s) is None

    def leave(self, job: Job, reason: Reason, tasks: int | None = None) -> None:
        """The job leaves now: all of it, or `tasks` of its elastic surplus."""
        gpus = job.placed_gpus if tasks is None else tasks * job.gpus_per_task
        self.going[job.id] = Evict(
            job=job.id,
            action=EvictAction.REQUEUE if tasks is None else EvictAction.SHRINK,
            beneficiary="",
            reason=reason,
            tasks=gpus // job.gpus_per_task,
            lost_gpu_s=lost_seconds(job, self.snapshot.now_s) * gpus,
            from_queue=job.queue,
            to_queue="",
        )

    def note(self, job: Job, reason: Reason, at_s: Seconds) -> None:
        """The job's owner is told that it will have to leave at `at_s`."""
        self.notes[job.id, reason] = Note(job=job.id, reason=reason, at_s=at_s)


def removed_queues(scene: Scene) -> None:
    """Jobs of queues that the policy has no more leave once the delay for that is over."""
    snapshot = scene.snapshot
    if not snapshot.removed:
        return
    for job in snapshot.jobs:
        at_s = snapshot.removed.get(job.queue)
        if at_s is None or job.queue in scene.tree.leaf_of or not scene.may_leave(job):
            continue
        if at_s <= snapshot.now_s:
            scene.leave(job, Reason.QUEUE_REMOVED)
        else:
            scene.note(job, Reason.QUEUE_REMOVED, at_s)


def coming_changes(scene: Scene) -> None:
    """Jobs that the calendar may cost their GPUs are told, where their queue says so."""
    for job, at_s in drain_notes(scene.snapshot, scene.tree, scene.nodes):
        scene.note(job, Reason.PRE_DRAIN, at_s)


def departures(snapshot: Snapshot, *, tree: QueueTree, nodes: NodeTable) -> Departures:
    """What the rules say for this snapshot. Pure; costs next to nothing while no rule applies."""
    scene = Scene(snapshot, tree=tree, nodes=nodes)
    for rule in RULES:
        rule(scene)
    notes = (scene.notes[key] for key in sorted(scene.notes) if key[0] not in scene.going)
    return Departures(evict=tuple(scene.going[job_id] for job_id in sorted(scene.going)), note=tuple(notes))


def told(snapshot: Snapshot, evicts: Iterable[Evict]) -> Snapshot:
    """The snapshot to everybody else: those jobs are on their way out, of a shrinking one the tasks it loses are.

    What a shrinking job keeps is left alone in this plan: where its last tasks end is not known before they have.
    """
    going = {evict.job: evict for evict in evicts}
    if not going:
        return snapshot
    jobs: list[Job] = []
    for job in snapshot.jobs:
        evict = going.get(job.id)
        if evict is None:
            jobs.append(job)
        elif evict.action is not EvictAction.SHRINK:
            since_s = snapshot.now_s if evict.reason in BEHIND_OTHERS else job.submitted_s
            jobs.append(replace(job, evicting_for="", submitted_s=since_s))
        else:
            kept = shrunk(job, [(evict.tasks, {})])
            left = {part.node: part.gpus for part in kept}
            lost = (replace(part, gpus=part.gpus - left.get(part.node, 0)) for part in job.placement)
            gone = tuple(part for part in lost if part.gpus)
            jobs.append(replace(job, placement=kept, requeue=False))
            jobs.append(replace(job, id=job.id + SURPLUS, state=JobState.COMPLETING, placement=gone))
    return replace(snapshot, jobs=tuple(jobs))


RULES: tuple[Callable[[Scene], None], ...] = (coming_changes, removed_queues, idle_gpus, cut_queues)
"""In this order: a cut counts only what stays after everybody else has left."""
