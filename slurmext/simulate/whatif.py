"""One question, several answers: the same jobs on the same cluster, decided in different ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from slurmext.errors import UsageError
from slurmext.model.job import Placement
from slurmext.model.node import Node
from slurmext.model.plan import Plan
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Settings, Snapshot
from slurmext.policy.planner import Planner
from slurmext.simulate import engine, peers
from slurmext.simulate.report import Report, report
from slurmext.simulate.timetable import Timetable
from slurmext.simulate.workload import TraceJob
from slurmext.simulate.world import World

SLURMEXT = "slurmext"
PEERS = ("static", "pool", "qos")
"""Partitions, one pool first come first served, Slurm's preempt/qos."""

Observer = Callable[[Snapshot, Plan], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Jobs to submit, jobs that run already and where, and the world they run in."""

    nodes: Sequence[Node]
    jobs: Sequence[TraceJob]
    running: Sequence[tuple[TraceJob, Placement]] = ()
    world: World = field(default_factory=World)

    @property
    def last_submit_s(self) -> float:
        """When the last job comes."""
        return float(max((job.submit_s for job in self.jobs), default=0))


def answer(
    question: Question,
    queues: Sequence[Queue],
    settings: Settings,
    *,
    way: str = SLURMEXT,
    observe: Observer | None = None,
    timetable: Timetable | None = None,
) -> Report:
    """Play it to the end under these queues: by slurmext's planner, or as one of PEERS would decide."""
    world, planner = question.world, Planner().plan
    policy = queues
    timetable = timetable if timetable is not None and way == SLURMEXT else Timetable()
    quota = {queue.path: queue.guaranteed or 0 for queue in queues}
    if way == "static":
        queues, settings = peers.static(queues), replace(settings, consolidate=False)
    elif way == "pool":
        planner = peers.QosPreemption({})
    elif way == "qos":
        planner, world = peers.QosPreemption(quota), replace(world, saves=False)
    simulation = engine.Simulation(
        nodes=question.nodes,
        queues=queues,
        settings=settings,
        world=world,
        planner=planner,
        observe=observe or (lambda _snapshot, _plan: None),
        queues_at=timetable.queues_at,
        tidy=timetable.tidy,
        half_life_s=timetable.half_life_s,
    )
    return report(simulation.run(question.jobs, question.running), policy=policy if way in PEERS else None)


def faster(jobs: Sequence[TraceJob], times: float) -> list[TraceJob]:
    """The same jobs coming `times` as fast: more load, each job as long as before."""
    return [replace(job, submit_s=job.submit_s / times) for job in jobs]


def first_days(jobs: Sequence[TraceJob], days: float) -> list[TraceJob]:
    """Jobs that come within so many days of the trace's start."""
    return [job for job in jobs if job.submit_s < days * 86400]


def scaled(nodes: Sequence[Node], times: float) -> tuple[Node, ...]:
    """That part of the nodes of every type, at least one; above 1 their likes are added, named `NODE+1`."""
    alike: dict[tuple[str, int], list[Node]] = {}
    for node in nodes:
        alike.setdefault((node.gpu_type, node.gpus), []).append(node)
    found: list[Node] = []
    for group in alike.values():
        wanted = max(1, round(len(group) * times))
        for number in range(wanted):
            copy, at = divmod(number, len(group))
            found.append(replace(group[at], name=f"{group[at].name}+{copy}") if copy else group[at])
    return tuple(found)


def without_lost_nodes(question: Question) -> Question:
    """Jobs that run on nodes that are not there wait instead."""
    there = {node.name for node in question.nodes}
    stay = [(job, placed) for job, placed in question.running if all(part.node in there for part in placed)]
    kept = {job.id for job, _ in stay}
    back = [job for job, _ in question.running if job.id not in kept]
    return replace(question, running=tuple(stay), jobs=(*question.jobs, *back))


def fitted(
    jobs: Sequence[TraceJob],
    known: Collection[str],
    queue_of: Callable[[TraceJob], str | None],
    comes: Callable[[str], bool] = lambda _path: False,
) -> list[TraceJob]:
    """The jobs in the policy's queues: what the trace calls a queue, else where `queue_of` places the job.

    `comes` says of other paths whether the queue comes into being by a job. Raises UsageError for a job no queue takes.
    """
    places: dict[tuple[str, str], str] = {}
    found: list[TraceJob] = []
    for job in jobs:
        path = places.get((job.queue, job.user))
        if path is None:
            asked = job.queue if job.queue in known else queue_of(job)
            if asked is None or (asked not in known and not comes(asked)):
                raise UsageError(
                    f"the trace has jobs of queue {job.queue!r}, which the policy does not have and places nowhere; "
                    f"add the queue, a 'placement' rule for account {job.queue}, or 'default_queue'"
                )
            path = places[job.queue, job.user] = asked
        found.append(job if path == job.queue else replace(job, queue=path))
    return found


def promises_too_much(queues: Sequence[Queue], nodes: Sequence[Node]) -> int:
    """GPUs that top-level guarantees exceed the cluster by; 0 when they fit."""
    promised = sum(queue.guaranteed or 0 for queue in queues if "/" not in queue.path)
    return max(0, math.ceil(promised - sum(node.gpus for node in nodes)))
