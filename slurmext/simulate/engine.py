"""The clock: what happens next, until every job of the trace has ended."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from slurmext.model.job import Job, JobState, Placement, Seconds
from slurmext.model.node import Node, NodeState
from slurmext.model.plan import EvictAction, Plan, Reason
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Fence, Settings, Snapshot
from slurmext.policy.planner import plan as real_plan
from slurmext.policy.victims import shrunk
from slurmext.simulate.workload import TraceJob

Planner = Callable[[Snapshot], Plan]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What the trace does not say. All in seconds.

    A victim that `saves` on its signal leaves after `save_s` and loses nothing but `restart_s` when it starts again;
    one that does not leaves at once and goes back to its last periodic checkpoint (`checkpoint_every_s`, None: none).
    Events within `tick_s` of each other are planned for together. `requeue_delay_s` is how long a victim cannot start
    again. A failed node (`failures`: (time, node, seconds it is out of use)) kills its jobs, which are requeued.
    """

    saves: bool = True
    save_s: float = 20
    restart_s: float = 30
    checkpoint_every_s: float | None = 3600
    tick_s: float = 0
    requeue_delay_s: float = 0
    failures: tuple[tuple[float, str, float], ...] = ()


class _Kind(IntEnum):
    """Ends come before submits at the same time, so that nobody is evicted for GPUs that are just coming free."""

    END = 0
    LEAVE = 1
    NODE_UP = 2
    NODE_DOWN = 3
    ELIGIBLE = 4
    SUBMIT = 5


@dataclass(slots=True)
class Track:
    """One job of the trace through the simulation. Times in seconds of the trace, `lost_gpu_s` in GPU-seconds.

    `work_s` is what is left to do with all tasks running.
    """

    trace: TraceJob
    job: Job
    work_s: float
    first_start_s: float | None = None
    ended_s: float | None = None
    evictions: int = 0
    lost_gpu_s: float = 0.0
    gpu_s: float = 0.0
    since_s: float = 0.0
    epoch: int = 0
    saved_work_s: float = 0.0
    reclaim_since_s: float | None = None
    longest_reclaim_s: float = 0.0
    """Longest time the job waited while GPUs were being taken back for it."""

    @property
    def rate(self) -> float:
        """Work done per second now: 1 with all tasks."""
        return self.job.placed_gpus / self.trace.gpus if self.trace.gpus else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """State after a plan: GPUs in use per queue, jobs waiting."""

    at_s: float
    used: Mapping[str, int]
    waiting: int


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of it. `window_s` is from the first submission to the last."""

    tracks: list[Track]
    samples: list[Sample]
    gpus: int
    plans: int
    window_s: tuple[float, float]
    queues: tuple[Queue, ...]


@dataclass(slots=True)
class Simulation:
    """Runs a trace on a cluster under a policy with one planner."""

    nodes: Sequence[Node]
    queues: Sequence[Queue]
    settings: Settings
    world: World = field(default_factory=World)
    planner: Planner = real_plan
    observe: Callable[[Snapshot, Plan], None] = lambda _snapshot, _plan: None
    """Called with every plan: an invariant monitor, a progress bar."""

    _now: float = 0.0
    _heap: list[tuple[float, int, int, str, int]] = field(default_factory=list[tuple[float, int, int, str, int]])
    _serial: int = 0
    _tracks: dict[str, Track] = field(default_factory=dict[str, Track])
    _active: dict[str, Track] = field(default_factory=dict[str, Track])
    _fences: tuple[Fence, ...] = ()
    _down: dict[str, int] = field(default_factory=dict[str, int])

    def run(self, trace: Iterable[TraceJob], running: Iterable[tuple[TraceJob, Placement]] = ()) -> Outcome:
        """Everything from the first submission until the last job has ended. `running` jobs hold GPUs at time 0."""
        for job in trace:
            self._push(job.submit_s, _Kind.SUBMIT, job.id)
            self._tracks[job.id] = Track(trace=job, job=job.as_pending(), work_s=float(job.duration_s))
        for job, placement in running:
            self._tracks[job.id] = track = Track(trace=job, job=job.as_pending(), work_s=float(job.duration_s))
            self._active[job.id] = track
            self._start(track, placement)
        for at_s, node, out_s in self.world.failures:
            self._push(at_s, _Kind.NODE_DOWN, node)
            self._push(at_s + out_s, _Kind.NODE_UP, node)
        submits = [track.trace.submit_s for track in self._tracks.values()]
        samples = list[Sample]()
        plans = 0
        while self._heap:
            self._advance()
            snapshot = self._snapshot()
            made = self.planner(snapshot)
            plans += 1
            self.observe(snapshot, made)
            self._apply(made)
            samples.append(self._sample())
        window = (float(min(submits, default=0)), float(max(submits, default=0)))
        gpus = sum(node.gpus for node in self.nodes)
        return Outcome(
            tracks=list(self._tracks.values()),
            samples=samples,
            gpus=gpus,
            plans=plans,
            window_s=window,
            queues=tuple(self.queues),
        )

    # --- time -----------------------------------------------------------------------------------------------------

    def _push(self, at_s: float, kind: _Kind, what: str, epoch: int = 0) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (at_s, kind, self._serial, what, epoch))

    def _advance(self) -> None:
        """Everything that happens within one tick of the next event."""
        until = self._heap[0][0] + self.world.tick_s
        while self._heap and self._heap[0][0] <= until:
            at_s, kind, _, what, epoch = heapq.heappop(self._heap)
            self._now = at_s
            if kind is _Kind.NODE_DOWN:
                self._node_down(what)
            elif kind is _Kind.NODE_UP:
                self._down[what] -= 1
            elif kind is _Kind.SUBMIT:
                self._active[what] = self._tracks[what]
            elif kind is not _Kind.ELIGIBLE and self._tracks[what].epoch == epoch:
                self._happen(self._tracks[what], _Kind(kind))
        self._now = max(self._now, min(until, self._heap[0][0]) if self._heap and self.world.tick_s else self._now)

    def _happen(self, track: Track, kind: _Kind) -> None:
        self._account(track)
        if kind is _Kind.END:
            track.ended_s = self._now
            track.epoch += 1
            track.job = replace(track.job, placement=())
            del self._active[track.job.id]
        else:
            self._leave(track, lost=not self.world.saves)

    def _node_down(self, name: str) -> None:
        self._down[name] = self._down.get(name, 0) + 1
        for track in list(self._active.values()):
            if any(part.node == name for part in track.job.placement):
                self._account(track)
                self._leave(track, lost=True, evicted=False)

    # --- jobs -----------------------------------------------------------------------------------------------------

    def _account(self, track: Track) -> None:
        """Count what the job did since it was last looked at."""
        spent = self._now - track.since_s
        if track.job.placement and spent > 0:
            track.work_s -= spent * track.rate
            track.gpu_s += spent * track.job.placed_gpus
        track.since_s = self._now

    def _start(self, track: Track, placement: Placement) -> None:
        again = track.first_start_s is not None
        track.first_start_s = self._now if track.first_start_s is None else track.first_start_s
        track.since_s = self._now
        if again:
            track.work_s += self.world.restart_s
            track.lost_gpu_s += self.world.restart_s * sum(part.gpus for part in placement)
        track.saved_work_s = track.work_s
        if track.reclaim_since_s is not None:
            track.longest_reclaim_s = max(track.longest_reclaim_s, self._now - track.reclaim_since_s)
            track.reclaim_since_s = None
        track.job = replace(
            track.job, state=JobState.RUNNING, placement=placement, started_s=self._now, eligible_s=None
        )
        self._schedule_end(track)

    def _schedule_end(self, track: Track) -> None:
        track.epoch += 1
        self._push(self._now + max(0.0, track.work_s) / (track.rate or 1.0), _Kind.END, track.job.id, track.epoch)

    def _leave(self, track: Track, *, lost: bool, evicted: bool = True) -> None:
        """The job gives its GPUs back and waits again."""
        track.epoch += 1
        track.evictions += evicted
        if lost:
            done = track.saved_work_s - track.work_s
            every = self.world.checkpoint_every_s
            kept = done // every * every if every else 0.0
            track.lost_gpu_s += (done - kept) * track.trace.gpus
            track.work_s = track.saved_work_s - kept
        eligible = self._now + self.world.requeue_delay_s
        track.job = replace(
            track.job,
            state=JobState.PENDING,
            placement=(),
            started_s=None,
            evicting_for=None,
            preempted=track.job.preempted + evicted,
            eligible_s=eligible if self.world.requeue_delay_s else None,
        )
        if self.world.requeue_delay_s:
            self._push(eligible, _Kind.ELIGIBLE, track.job.id)

    def _last_checkpoint(self, track: Track) -> Seconds | None:
        every = self.world.checkpoint_every_s
        if every is None or track.job.started_s is None:
            return None
        ran = self._now - track.job.started_s
        return track.job.started_s + ran // every * every if ran >= every else None

    # --- plans ----------------------------------------------------------------------------------------------------

    def _snapshot(self) -> Snapshot:
        jobs = list[Job]()
        for track in self._active.values():
            job = track.job
            if job.state is JobState.RUNNING:
                saved = self._last_checkpoint(track)
                if saved != job.checkpoint_s:
                    job = track.job = replace(job, checkpoint_s=saved)
            jobs.append(job)
        nodes = tuple(replace(node, state=NodeState.DOWN) if self._down.get(node.name) else node for node in self.nodes)
        return Snapshot(
            now_s=self._now,
            settings=replace(self.settings, fences_stand=True),
            nodes=nodes,
            queues=tuple(self.queues),
            jobs=tuple(jobs),
            fences=self._fences,
        )

    def _apply(self, made: Plan) -> None:
        for release in made.release:
            self._start(self._active[release.job], release.placement)
        leaving = dict[str, str]()
        for evict in made.evict:
            if evict.action is EvictAction.SHRINK:
                self._shrink(self._active[evict.job], evict.tasks, evict.beneficiary, made)
            else:
                leaving[evict.job] = evict.beneficiary
        leaving |= {move.job: move.beneficiary for move in made.move}
        for job_id, beneficiary in leaving.items():
            track = self._active[job_id]
            track.job = replace(track.job, evicting_for=beneficiary)
            if self.world.saves:
                # It works on while it saves, and may end before.
                self._push(self._now + self.world.save_s, _Kind.LEAVE, job_id, track.epoch)
            else:
                self._push(self._now, _Kind.LEAVE, job_id, track.epoch)
        waiting_for_victims = {Reason.RECLAIMING, Reason.PREEMPTING}
        for job_id, reason in made.reasons.items():
            track = self._active[job_id]
            if reason in waiting_for_victims and track.reclaim_since_s is None:
                track.reclaim_since_s = self._now
        self._fences = made.fence

    def _shrink(self, track: Track, tasks: int, beneficiary: str, made: Plan) -> None:
        self._account(track)
        wanted = {
            part.node: part.gpus for fence in made.fence if fence.beneficiary == beneficiary for part in fence.placement
        }
        track.evictions += 1
        track.job = replace(track.job, placement=shrunk(track.job, [(tasks, wanted)]))
        self._schedule_end(track)
        self._push(self._now, _Kind.ELIGIBLE, track.job.id)  # what it gave is there now

    def _sample(self) -> Sample:
        used = dict[str, int]()
        waiting = 0
        for track in self._active.values():
            if track.job.placement:
                used[track.job.queue] = used.get(track.job.queue, 0) + track.job.placed_gpus
            else:
                waiting += 1
        return Sample(at_s=self._now, used=used, waiting=waiting)
