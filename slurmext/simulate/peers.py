"""Other ways to decide, to compare with: each is a planner over the same snapshots."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from slurmext.model.job import Job, JobState, NodeGpus, Placement
from slurmext.model.node import NodeState
from slurmext.model.plan import Evict, EvictAction, Plan, QueueUsage, Reason, Release
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot


def static(queues: Iterable[Queue]) -> tuple[Queue, ...]:
    """Partitions: what a queue is guaranteed is all it gets."""
    return tuple(replace(queue, max=queue.guaranteed) for queue in queues)


class QosPreemption:
    """Slurm's preempt/qos with a pair of QOS for every queue, chosen when a job is submitted: high while the queue's
    high jobs (running and waiting) are within its quota, else low. A high job that does not fit kills the newest low
    jobs until it does, those on the nodes it gets, and nobody starts there before it.
    """

    def __init__(self, quota: dict[str, int]) -> None:
        self._quota = quota
        self._high: dict[str, str] = {}
        self._seen: set[str] = set()

    def __call__(self, snapshot: Snapshot) -> Plan:
        """The plan; remembers which QOS each job was submitted with."""
        for job in snapshot.jobs:
            if job.id not in self._seen:
                self._seen.add(job.id)
                taken = sum(other.gpus for other in snapshot.jobs if self._high.get(other.id) == job.queue)
                if taken + job.gpus <= self._quota.get(job.queue, 0):
                    self._high[job.id] = job.queue
        waiting = sorted(
            (job for job in snapshot.jobs if job.state is JobState.PENDING and (job.eligible_s or 0) <= snapshot.now_s),
            key=lambda job: (job.id not in self._high, job.submitted_s, job.id),
        )
        if not waiting:
            return Plan()
        free = {node.name: node.gpus for node in snapshot.nodes if node.state is NodeState.UP}
        for job in snapshot.jobs:
            for part in job.placement:
                free[part.node] = free.get(part.node, 0) - part.gpus
        low: list[Job] | None = None
        promised = {job.evicting_for for job in snapshot.jobs if job.evicting_for}
        release, evict, reasons = list[Release](), list[Evict](), dict[str, Reason]()
        unfit, hopeless = set[tuple[int, int]](), set[tuple[int, int]]()
        for job in waiting:
            shape = (job.tasks, job.gpus_per_task)
            place = None if shape in unfit else _fit(job, free)
            if place is not None:
                for part in place:
                    free[part.node] -= part.gpus
                high = job.id in self._high
                usage = QueueUsage.GUARANTEED if high else QueueUsage.BORROWED
                release.append(Release(job=job.id, placement=place, queue_usage=usage))
                continue
            unfit.add(shape)
            reasons[job.id] = Reason.NO_FREE_GPUS
            if job.id in self._high and job.id not in promised and shape not in hopeless:
                low = self._low(snapshot) if low is None else low
                killed = _kill_newest(job, low, free)
                evict += killed
                if not killed:
                    hopeless.add(shape)
        return Plan(release=tuple(release), evict=tuple(evict), reasons=reasons)

    def _low(self, snapshot: Snapshot) -> list[Job]:
        """Running low jobs, the newest last."""
        return sorted(
            (job for job in snapshot.jobs if job.placement and job.id not in self._high and not job.evicting_for),
            key=lambda job: (job.started_s or 0, job.id),
        )


def _kill_newest(job: Job, low: list[Job], free: dict[str, int]) -> list[Evict]:
    """The victims, none when all low jobs together are not enough. What is idle where the job will run is taken."""
    would = dict(free)
    victims = list[Job]()
    size = job.gpus_per_task
    room = sum(max(0, gpus) // size for gpus in would.values())
    for victim in reversed(low):
        if room >= job.tasks:
            break
        victims.append(victim)
        for part in victim.placement:
            before = would.get(part.node, 0)
            would[part.node] = before + part.gpus
            room += max(0, before + part.gpus) // size - max(0, before) // size
    place = _fit(job, would) if room >= job.tasks else None
    if place is None:
        return []
    nodes = {part.node: part.gpus for part in place}
    victims = [victim for victim in victims if any(part.node in nodes for part in victim.placement)]
    for victim in victims:
        low.remove(victim)
    for node, gpus in nodes.items():
        free[node] -= min(max(0, free[node]), gpus)
    return [
        Evict(
            job=victim.id, action=EvictAction.REQUEUE, beneficiary=job.id, reason=Reason.RECLAIM_GUARANTEE,
            tasks=victim.tasks, lost_gpu_s=0, from_queue=victim.queue, to_queue=job.queue,
        )
        for victim in victims
    ]  # fmt: skip


def _fit(job: Job, free: dict[str, int]) -> Placement | None:
    """Best fit, whole tasks; None when it does not fit."""
    left = job.tasks
    found = list[NodeGpus]()
    for name, gpus in sorted(free.items(), key=lambda item: (item[1], item[0])):
        tasks = min(left, max(0, gpus) // job.gpus_per_task)
        if tasks:
            found.append(NodeGpus(node=name, gpus=tasks * job.gpus_per_task))
            left -= tasks
        if not left:
            return tuple(sorted(found, key=lambda part: part.node))
    return None
