"""The clock: what happens next, until every job of the trace has ended."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from slurmext.model.job import JobState, Placement
from slurmext.model.node import Node, NodeState
from slurmext.model.plan import EvictAction, Plan, Reason
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Fence, Settings, Snapshot
from slurmext.policy import planner as real
from slurmext.policy.defragment import PATIENCE_S
from slurmext.policy.tree import queue_tree
from slurmext.policy.victims import shrunk
from slurmext.simulate.contract import Contract
from slurmext.simulate.history import History
from slurmext.simulate.timetable import Past, QueuesAt, Tidy
from slurmext.simulate.track import Outcome, Track
from slurmext.simulate.workload import TraceJob
from slurmext.simulate.world import World

Planner = Callable[[Snapshot], Plan]

_MOST_IN_VAIN = 1000
"""Plans in a row that start nothing while nothing runs or comes: a calendar that turns for ever helps no job then."""

_TAKING = frozenset({Reason.RECLAIMING, Reason.PREEMPTING})


class _Kind(IntEnum):
    """Ends come before submits at the same time, so that nobody is evicted for GPUs that are just coming free."""

    END = 0
    LEAVE = 1
    NODE_UP = 2
    NODE_DOWN = 3
    QUEUES = 4
    CHECKPOINT = 5
    ELIGIBLE = 6
    LOOK = 7
    TIDY = 8
    SUBMIT = 9


_SILENT = frozenset({_Kind.CHECKPOINT})
"""Nothing new for a plan."""


@dataclass(slots=True)
class Simulation:
    """Runs a trace on a cluster under a policy with one planner."""

    nodes: Sequence[Node]
    queues: Sequence[Queue]
    settings: Settings
    world: World = field(default_factory=World)
    planner: Planner = field(default_factory=lambda: real.Planner().plan)
    observe: Callable[[Snapshot, Plan], None] = lambda _snapshot, _plan: None
    """Called with every plan: an invariant monitor, a progress bar."""
    queues_at: QueuesAt | None = None
    """A calendar; without one the queues stay as they are."""
    tidy: Tidy | None = None
    half_life_s: float = 86400

    _now: float = 0.0
    _next_plan_s: float = float("-inf")
    _heap: list[tuple[float, int, int, str, int]] = field(default_factory=list[tuple[float, int, int, str, int]])
    _serial: int = 0
    _ahead: int = 0
    _tracks: dict[str, Track] = field(default_factory=dict[str, Track])
    _active: dict[str, Track] = field(default_factory=dict[str, Track])
    _fences: tuple[Fence, ...] = ()
    _down: dict[str, int] = field(default_factory=dict[str, int])
    _up: tuple[Node, ...] = ()
    _type_of: dict[str, str] = field(default_factory=dict[str, str])
    _delay_s: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    _history: History = field(default_factory=History)
    _contract: Contract = field(init=False)
    _past: Past = field(init=False)
    _tidy_until_s: float = 0.0

    def run(self, trace: Iterable[TraceJob], running: Iterable[tuple[TraceJob, Placement]] = ()) -> Outcome:
        """Everything from the first submission until the last job has ended. `running` jobs hold GPUs at time 0."""
        self._contract = Contract(grace_s=float(self.settings.grace_s))
        self._past = Past(half_life_s=self.half_life_s)
        self.settings = replace(self.settings, fences_stand=True)
        self._type_of = {node.name: node.gpu_type for node in self.nodes}
        for job in trace:
            self._push(job.submit_s, _Kind.SUBMIT, job.id)
            self._tracks[job.id] = Track.of(job)
        self._now = min((job.trace.submit_s for job in self._tracks.values()), default=0.0)
        self._count_nodes()
        self._new_queues()
        self._plan_to_tidy()
        for job, placement in running:
            self._tracks[job.id] = self._active[job.id] = track = Track.of(job)
            self._waits(track)
            self._start(track, placement)
        for at_s, node, out_s in self.world.failures:
            self._push(at_s, _Kind.NODE_DOWN, node)
            self._push(at_s + out_s, _Kind.NODE_UP, node)
        plans = in_vain = 0
        while self._heap and (self._active or self._ahead) and in_vain < _MOST_IN_VAIN:
            if not self._advance():
                break
            snapshot = self._snapshot()
            made = self.planner(snapshot)
            plans += 1
            self.observe(snapshot, made)
            self._apply(made)
            self._contract.look(self._now, made.reasons)
            self._past.borrowed = self._contract.borrowed() if self.settings.past_factor > 0 else {}
            self._next_plan_s = self._now + self.world.tick_s if made.reasons else self._now
            stuck = not self._ahead and all(track.waits for track in self._active.values()) if made.reasons else False
            in_vain = in_vain + 1 if stuck else 0
        submits = [track.trace.submit_s for track in self._tracks.values()]
        window = (float(min(submits, default=0)), float(max(submits, default=0)))
        return Outcome(
            tracks=list(self._tracks.values()),
            history=self._history,
            breaches=self._contract.finish(self._now),
            longest_guaranteed_s=self._contract.longest_s,
            gpus=sum(node.gpus for node in self.nodes),
            plans=plans,
            window_s=window if window[1] > window[0] else (window[0], max(self._now, window[0])),
            queues=tuple(self.queues),
        )

    # --- time -----------------------------------------------------------------------------------------------------

    def _push(self, at_s: float, kind: _Kind, what: str, epoch: int = 0) -> None:
        self._serial += 1
        self._ahead += kind is _Kind.SUBMIT
        heapq.heappush(self._heap, (at_s, kind, self._serial, what, epoch))

    def _advance(self) -> bool:
        """Everything up to the next plan: that is at the next event; while jobs wait, a tick after the last plan, or
        when a victim leaves. False when nothing happens any more.
        """
        news, until = False, 0.0
        while self._heap and (not news or self._heap[0][0] <= until):
            at_s, number, _, what, epoch = heapq.heappop(self._heap)
            kind = _Kind(number)
            if kind in {_Kind.END, _Kind.LEAVE, _Kind.CHECKPOINT} and self._tracks[what].epoch != epoch:
                continue
            self._now = max(self._now, at_s)
            if not news and kind not in _SILENT:
                news, until = True, max(at_s, self._next_plan_s)
            if kind is _Kind.LEAVE:
                until = self._now
            self._happen(kind, what)
        if news:
            self._now = max(self._now, until)
        return news

    def _happen(self, kind: _Kind, what: str) -> None:
        if kind is _Kind.SUBMIT:
            self._ahead -= 1
            self._active[what] = self._tracks[what]
            self._waits(self._tracks[what])
        elif kind is _Kind.END:
            self._end(self._tracks[what])
        elif kind is _Kind.LEAVE:
            self._tracks[what].account(self._now)
            self._leave(self._tracks[what], lost=not self.world.saves)
        elif kind is _Kind.CHECKPOINT:
            track = self._tracks[what]
            track.job = replace(track.job, checkpoint_s=self._now)
            self._next_checkpoint(track)
        elif kind is _Kind.ELIGIBLE:
            track = self._tracks[what]
            if track.waits and track.job.eligible_s is not None and track.job.eligible_s <= self._now:
                track.job = replace(track.job, eligible_s=None)
                self._waits(track)
        elif kind is _Kind.QUEUES:
            self._new_queues()
        elif kind is _Kind.TIDY:
            self._tidy_until_s = self._now + PATIENCE_S
            self._plan_to_tidy()
        elif kind is _Kind.NODE_DOWN:
            self._node_down(what)
        elif kind is _Kind.NODE_UP:
            self._down[what] -= 1
            self._count_nodes()

    def _node_down(self, name: str) -> None:
        self._down[name] = self._down.get(name, 0) + 1
        self._count_nodes()
        for track in list(self._active.values()):
            if any(part.node == name for part in track.job.placement):
                track.account(self._now)
                self._leave(track, lost=True, evicted=False)

    def _count_nodes(self) -> None:
        self._up = tuple(
            replace(node, state=NodeState.DOWN) if self._down.get(node.name) else node for node in self.nodes
        )
        self._history.gpus.set(self._now, sum(node.gpus for node in self._up if node.state is NodeState.UP))

    def _new_queues(self) -> None:
        """The queues that hold now; comes back when they change."""
        if self.queues_at is not None:
            self.queues, next_s = self.queues_at(self._now)
            if next_s is not None:
                self._push(max(next_s, self._now + 1), _Kind.QUEUES, "")
        tree = queue_tree(Snapshot(queues=tuple(self.queues)))
        for path, leaf in tree.leaf_of.items():
            node = tree.nodes[leaf]
            self._history.of(path).guarantee(self._now, node.guaranteed)
            self._delay_s[path] = (node.preemption_delay_s, node.min_runtime_s)
        self._contract.policy(tree)

    def _plan_to_tidy(self) -> None:
        due_s = None if self.tidy is None else self.tidy.after(self._now)
        if due_s is not None:
            self._push(max(due_s, self._now + 1), _Kind.TIDY, "")

    # --- jobs -----------------------------------------------------------------------------------------------------

    def _waits(self, track: Track) -> None:
        """The job may start from now on."""
        self._history.of(track.job.queue).wait(self._now, 1, track.job.gpus)
        self._contract.waits(track.job)
        patience_s = self._delay_s.get(track.job.queue, (0.0, 0.0))[0]
        if patience_s and track.job.submitted_s + patience_s > self._now:
            self._push(track.job.submitted_s + patience_s, _Kind.LOOK, "")

    def _place(self, track: Track, placement: Placement) -> None:
        """The job holds these GPUs from now on."""
        before = track.job.placed_gpus
        self._history.of(track.job.queue).use(self._now, sum(part.gpus for part in placement) - before)
        track.job = replace(track.job, placement=placement)
        by_type = dict[str, int]()
        for part in placement:
            kind = self._type_of.get(part.node, "")
            by_type[kind] = by_type.get(kind, 0) + part.gpus
        self._contract.holds(track.job, by_type)

    def _start(self, track: Track, placement: Placement) -> None:
        self._history.of(track.job.queue).wait(self._now, -1, -track.job.gpus)
        self._contract.starts(track.job, self._now)
        track.begin(placement, self._now, self.world.restart_s)
        track.job = replace(track.job, state=JobState.RUNNING, started_s=self._now, checkpoint_s=None)
        self._place(track, placement)
        self._schedule_end(track)
        self._next_checkpoint(track)
        spared_s = self._delay_s.get(track.job.queue, (0.0, 0.0))[1]
        if spared_s:
            self._push(self._now + spared_s, _Kind.LOOK, "")

    def _schedule_end(self, track: Track) -> None:
        track.epoch += 1
        self._push(self._now + max(0.0, track.work_s) / (track.rate or 1.0), _Kind.END, track.job.id, track.epoch)

    def _next_checkpoint(self, track: Track) -> None:
        every = self.world.checkpoint_every_s
        if every is not None and track.work_s > every:
            self._push(self._now + every, _Kind.CHECKPOINT, track.job.id, track.epoch)

    def _end(self, track: Track) -> None:
        track.account(self._now)
        track.ended_s = self._now
        track.epoch += 1
        self._place(track, ())
        del self._active[track.job.id]

    def _leave(self, track: Track, *, lost: bool, evicted: bool = True) -> None:
        """The job gives its GPUs back and waits again."""
        track.epoch += 1
        track.evictions += evicted
        track.moves += evicted and track.moving
        track.moving = False
        if evicted:
            self._history.of(track.job.queue).evicted_s.append(self._now)
        if lost:
            track.lose(self.world.checkpoint_every_s)
        self._place(track, ())
        delay_s = self.world.requeue_delay_s
        track.job = replace(
            track.job,
            state=JobState.PENDING,
            started_s=None,
            evicting_for=None,
            preempted=track.job.preempted + evicted,
            eligible_s=self._now + delay_s if delay_s else None,
        )
        if delay_s:
            self._push(self._now + delay_s, _Kind.ELIGIBLE, track.job.id)
        else:
            self._waits(track)

    # --- plans ----------------------------------------------------------------------------------------------------

    def _snapshot(self) -> Snapshot:
        if self.settings.past_factor > 0:
            self._past.bring_up(self._now)
        wished = self.tidy is not None and self._now < self._tidy_until_s
        return Snapshot(
            now_s=self._now,
            settings=self.settings,
            nodes=self._up,
            queues=tuple(self.queues),
            jobs=tuple(track.job for track in self._active.values()),
            fences=self._fences,
            past_gpus=self._past.gpus,
            defragment=self.tidy.wish if self.tidy is not None and wished else None,
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
        if any(not move.beneficiary for move in made.move):
            self._tidy_until_s = 0.0
        for move in made.move:
            leaving[move.job] = move.beneficiary
            self._active[move.job].moving = True
        for job_id, beneficiary in leaving.items():
            track = self._active[job_id]
            track.job = replace(track.job, evicting_for=beneficiary)
            # It works on while it saves, and may end before.
            self._push(self._now + self.world.save_s * self.world.saves, _Kind.LEAVE, job_id, track.epoch)
        for job_id, reason in made.reasons.items():
            if reason in _TAKING:
                track = self._active[job_id]
                track.reclaim_since_s = self._now if track.reclaim_since_s is None else track.reclaim_since_s
        self._fences = made.fence

    def _shrink(self, track: Track, tasks: int, beneficiary: str, made: Plan) -> None:
        track.account(self._now)
        wanted = {
            part.node: part.gpus for fence in made.fence if fence.beneficiary == beneficiary for part in fence.placement
        }
        track.evictions += 1
        self._history.of(track.job.queue).evicted_s.append(self._now)
        self._place(track, shrunk(track.job, [(tasks, wanted)]))
        self._schedule_end(track)
        self._next_checkpoint(track)
        self._push(self._now, _Kind.LOOK, "")  # what it gave is there now
