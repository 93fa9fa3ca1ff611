"""Quota cuts: what a queue uses above its max leaves once the delay for that is over.

Only jobs that started before the cut was due have to go: who started later was within the max, or Slurm let it through
while no daemon was there. The set is minimal and cheap: elastic surplus first, then whole jobs, then those are let off
without whom the rest suffices. Queues below the cut one keep what they are guaranteed where that is possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slurmext.model.job import Job, JobState, Seconds
from slurmext.model.plan import Reason
from slurmext.policy.ledger import Usage
from slurmext.policy.victims import Candidate, Cost, candidate, ends_within, shrunk

if TYPE_CHECKING:
    from slurmext.policy.departures import Scene

_HELD = frozenset({JobState.RUNNING, JobState.SUSPENDED, JobState.UNKNOWN})
_Key = tuple[int, str | None]
"""A limit: queue number and GPU type (None: all types together)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """A job that leaves, or `tasks` of its surplus (None: the whole job). `gpus` come free per type."""

    victim: Candidate
    tasks: int | None
    gpus: dict[str, int]
    cost: Cost

    def freed(self, gpu_type: str | None) -> int:
        return sum(self.gpus.values()) if gpu_type is None else self.gpus.get(gpu_type, 0)


def cut_queues(scene: Scene) -> None:
    """Jobs above a max whose time has come leave; jobs above one whose time will come are told."""
    times = {queue.path: queue.cut_s for queue in scene.snapshot.queues if queue.cut_s is not None}
    if not times:
        return
    now_s = scene.snapshot.now_s
    due = {scene.tree.by_path[path] for path, cut_s in times.items() if cut_s <= now_s}
    for choice in _least(scene, _excess(scene, due, times), times):
        scene.leave(choice.victim.job, Reason.QUOTA_CUT, choice.tasks)
    later = {scene.tree.by_path[path]: cut_s for path, cut_s in times.items() if cut_s > now_s}
    if later:
        excess = _excess(scene, later, times)
        for choice in _least(scene, excess, times):
            mine = (later[index] for index, _ in excess if index in choice.victim.lineage)
            scene.note(choice.victim.job, Reason.QUOTA_CUT, min(mine))


def _excess(scene: Scene, queues: Iterable[int], times: Mapping[str, Seconds]) -> dict[_Key, int]:
    """GPUs above each limit of these queues, without jobs that leave anyway or started after the cut was due."""
    wanted = set(queues)
    settings, now_s = scene.snapshot.settings, scene.snapshot.now_s
    limits: dict[_Key, int] = {}
    for index in wanted:
        node = scene.tree.nodes[index]
        if node.max is not None:
            limits[index, None] = node.max
        limits |= {(index, gpu_type): most for gpu_type, most in node.type_max.items()}
    if not limits:
        return {}
    used = dict.fromkeys(limits, 0)
    for job in scene.snapshot.jobs:
        leaf = scene.tree.leaf_of.get(job.queue)
        if leaf is None or job.state not in _HELD or job.evicting_for is not None or job.id in scene.going:
            continue
        if settings.near_end_s and ends_within(job, now_s, settings.near_end_s):
            continue
        for index in scene.tree.nodes[leaf].lineage:
            if index not in wanted or not _before(job, times[scene.tree.nodes[index].path]):
                continue
            by_type = scene.nodes.by_type(scene.nodes.parts(job.placement))
            if (index, None) in used:
                used[index, None] += job.placed_gpus
            for gpu_type, gpus in by_type.items():
                if (index, gpu_type) in used:
                    used[index, gpu_type] += gpus
    return {key: used[key] - most for key, most in limits.items() if used[key] > most}


def _before(job: Job, cut_s: Seconds) -> bool:
    return job.started_s is None or job.started_s < cut_s


def _least(scene: Scene, excess: dict[_Key, int], times: Mapping[str, Seconds]) -> list[_Choice]:
    """The jobs that bring every limit back as far as rules allow, none of which could be left out."""
    if not excess:
        return []
    over = {index for index, _ in excess}
    found = [
        victim
        for job in scene.snapshot.jobs
        if scene.may_leave(job) and (victim := candidate(job, scene.snapshot, scene.tree, scene.nodes)) is not None
        if not over.isdisjoint(victim.lineage)
    ]
    chosen = _Chosen(scene, excess, times)
    for victim in sorted(found, key=lambda victim: (victim.per_task, victim.job.id)):
        if victim.surplus:
            chosen.shrink(victim)
    whole = sorted(found, key=lambda victim: (victim.whole, victim.job.id))
    for victim in whole:
        chosen.take(victim, keeps=True)
    for victim in whole:
        chosen.take(victim, keeps=False)
    return chosen.without_spare()


def _solid(scene: Scene) -> Usage:
    """What stays in each queue while nobody is chosen yet."""
    usage = Usage(scene.tree)
    for job in scene.snapshot.jobs:
        leaf = scene.tree.leaf_of.get(job.queue)
        if leaf is None or job.state is not JobState.RUNNING or job.evicting_for is not None or job.id in scene.going:
            continue
        usage.add(leaf, job, scene.nodes.by_type(scene.nodes.parts(job.placement)))
    return usage


class _Chosen:
    """Who was chosen so far, and what is still above each limit."""

    def __init__(self, scene: Scene, excess: dict[_Key, int], times: Mapping[str, Seconds]) -> None:
        self._scene, self._excess, self._solid = scene, dict(excess), _solid(scene)
        self._cut_s = {key: times[scene.tree.nodes[key[0]].path] for key in excess}
        self._choices: dict[str, _Choice] = {}

    def shrink(self, victim: Candidate) -> None:
        """Take as much of the job's surplus as is still too much."""
        need = self._needed(victim, None)
        if need > 0:
            self._add(self._some(victim, min(victim.surplus, -(-need // victim.task_gpus))))

    def take(self, victim: Candidate, *, keeps: bool) -> None:
        """Take the whole job where it helps; with `keeps` only if the queues below keep their guarantees."""
        before = self._choices.get(victim.job.id)
        if before is not None and before.tasks is None:
            return
        if self._needed(victim, before) <= 0 or (keeps and not self._keeps(victim)):
            return
        if before is not None:
            self._drop(before)
        self._add(_Choice(victim=victim, tasks=None, gpus=victim.by_type, cost=victim.whole))

    def without_spare(self) -> list[_Choice]:
        """Let off whom the rest does without, the most expensive first."""
        for choice in sorted(self._choices.values(), key=lambda c: (c.cost, c.victim.job.id), reverse=True):
            self._drop(choice)
            least = choice
            smaller = (() if choice.tasks is None else range(choice.tasks)) if self._short(choice) else (0,)
            for tasks in smaller:
                least = self._some(choice.victim, tasks)
                if not self._short(choice, least):
                    break
            else:
                least = choice
            if least.tasks != 0:
                self._add(least)
        return list(self._choices.values())

    def _some(self, victim: Candidate, tasks: int) -> _Choice:
        left = shrunk(victim.job, [(tasks, {})])
        gpus = dict(victim.by_type)
        for gpu_type, count in self._scene.nodes.by_type(self._scene.nodes.parts(left)).items():
            gpus[gpu_type] -= count
        whole, each, age = victim.per_task
        return _Choice(victim=victim, tasks=tasks, gpus=gpus, cost=(whole * tasks, each * tasks, age * tasks))

    def _limits(self, victim: Candidate) -> list[_Key]:
        cut_s = self._cut_s
        return [key for key in cut_s if key[0] in victim.lineage and _before(victim.job, cut_s[key])]

    def _needed(self, victim: Candidate, before: _Choice | None) -> int:
        """The most that any limit of the job lacks and the job could help with beyond what it gave `before`."""
        lacking = [0]
        for key in self._limits(victim):
            given = before.freed(key[1]) if before else 0
            helps = (victim.gpus if key[1] is None else victim.by_type.get(key[1], 0)) > given
            lacking.append(self._excess[key] if helps else 0)
        return max(lacking)

    def _short(self, without: _Choice, instead: _Choice | None = None) -> bool:
        """Whether a limit of the job is broken without it."""
        return any(
            self._excess[key] - (instead.freed(key[1]) if instead else 0) > 0 for key in self._limits(without.victim)
        )

    def _keeps(self, victim: Candidate) -> bool:
        tree = self._scene.tree
        over = {key[0] for key in self._limits(victim) if self._excess[key] > 0}
        top = max(depth for depth, index in enumerate(victim.lineage) if index in over)
        return all(self._solid.can_give(tree.nodes[index], victim.by_type) for index in victim.lineage[:top])

    def _add(self, choice: _Choice) -> None:
        self._choices[choice.victim.job.id] = choice
        self._count(choice, -1)

    def _drop(self, choice: _Choice) -> None:
        del self._choices[choice.victim.job.id]
        self._count(choice, 1)

    def _count(self, choice: _Choice, sign: int) -> None:
        for key in self._limits(choice.victim):
            self._excess[key] += sign * choice.freed(key[1])
        self._solid.add(choice.victim.leaf, choice.victim.job, choice.gpus, sign=sign)
