"""The clock, run on from a snapshot of a real cluster: every job as it is, its checkpoints, fences and delays too.

Running jobs end at their time limits, jobs without one never do, victims use their whole grace, and nobody else comes:
what starts by then starts no later in reality, unless somebody comes who goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from slurmext.model.job import Job, JobState, Placement
from slurmext.model.plan import Plan
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot
from slurmext.simulate.engine import Simulation
from slurmext.simulate.engine import _Kind as Kind
from slurmext.simulate.track import Track
from slurmext.simulate.workload import TraceJob
from slurmext.simulate.world import World

NEVER_S = 1e9
"""How long a job without a time limit runs, and one in a state that gives no GPUs back by itself."""

CLEANING_S = 5.0
"""How long Slurm may take to clean up after a job that has ended."""


@dataclass(slots=True)
class Resumed(Simulation):
    """A simulation whose jobs were there before it began: `before` are those it has not taken up yet."""

    before: dict[str, Job] = field(default_factory=dict[str, Job])

    def _waits(self, track: Track) -> None:
        job = self.before.get(track.job.id)
        if job is not None and job.state is JobState.PENDING:
            del self.before[job.id]
            track.job = job
            if job.eligible_s is not None and job.eligible_s > self._now:
                self._push(float(job.eligible_s), Kind.ELIGIBLE, job.id)
        super(Resumed, self)._waits(track)

    def _start(self, track: Track, placement: Placement) -> None:
        super(Resumed, self)._start(track, placement)
        job = self.before.pop(track.job.id, None)
        if job is not None:
            track.job = job
            if job.evicting_for is not None and job.state is JobState.RUNNING:
                self._push(self._now + self.world.save_s, Kind.LEAVE, job.id, track.epoch)


def resumed(snapshot: Snapshot, observe: Callable[[Snapshot, Plan], None]) -> None:
    """Run the world of the snapshot on until nothing more happens, or until `observe` raises."""
    settings = snapshot.settings
    world = World(
        save_s=float(settings.grace_s),
        restart_s=0,
        checkpoint_every_s=None,
        requeue_delay_s=float(settings.requeue_delay_s),
    )
    pending = [job for job in snapshot.jobs if job.state is JobState.PENDING]
    holding = [job for job in snapshot.jobs if job.state is not JobState.PENDING and job.placement]
    simulation = Resumed(
        nodes=snapshot.nodes,
        queues=snapshot.queues,
        settings=settings,
        world=world,
        observe=observe,
        before={job.id: job for job in (*pending, *holding)},
        queues_at=(lambda at_s: _queues_at(snapshot.queues, at_s)) if any(q.changes for q in snapshot.queues) else None,
        _fences=snapshot.fences,
    )
    now_s = float(snapshot.now_s)
    simulation.run(
        [_traced(job, now_s) for job in pending],
        [(_traced(job, now_s), job.placement) for job in holding],
    )


def _queues_at(queues: Sequence[Queue], at_s: float) -> tuple[Sequence[Queue], float | None]:
    """The queues as their calendars have them at that time, and when the next one changes."""
    found: list[Queue] = []
    for queue in queues:
        came = [change for change in queue.changes if change.at_s <= at_s]
        left = queue.changes[len(came) :]
        found.append(replace(queue.changed(came[-1]) if came else queue, changes=left))
    return found, min((float(queue.changes[0].at_s) for queue in found if queue.changes), default=None)


def _traced(job: Job, now_s: float) -> TraceJob:
    return TraceJob(
        id=job.id,
        queue=job.queue,
        submit_s=now_s,
        duration_s=_left_s(job, now_s),
        gpus_per_task=job.gpus_per_task,
        tasks=job.tasks,
        min_tasks=job.min_tasks,
        time_limit_s=job.time_limit_s,
    )


def _left_s(job: Job, now_s: float) -> float:
    """Seconds until the job ends by itself."""
    if job.state is JobState.COMPLETING:
        return CLEANING_S
    if job.time_limit_s is None or job.state in {JobState.SUSPENDED, JobState.UNKNOWN}:
        return NEVER_S
    began_s = now_s if job.started_s is None else float(job.started_s)
    return max(1.0, began_s + float(job.time_limit_s) - now_s)
