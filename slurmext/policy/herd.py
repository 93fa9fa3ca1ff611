"""All possible victims of a snapshot, who of them was told to go, and what a search for more must know."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from slurmext.policy.ledger import Ledger
from slurmext.policy.supply import NodePart, NodeTable, Supply
from slurmext.policy.victims import Candidate, Taking, take_tasks

Victims = dict[str, Taking]
"""Job id -> what is taken of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What the beneficiary must get: `tasks` of `size` GPUs, at most `per_node` a node, on nodes of `mask`.

    `inside` lists (queue, GPUs) that must come free within that queue, because it is at its max there.
    """

    tasks: int
    size: int
    mask: int
    per_node: int | None
    inside: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Givers:
    """Who may give: per leaf the levels that must keep their guarantee. `key` tells kinds of search apart.

    `below_priority` limits the search to jobs of lower priority; leaves of `last` are a last resort.
    """

    key: Hashable
    levels: Mapping[int, tuple[int, ...]]
    below_priority: int | None = None
    last: frozenset[int] = frozenset()


class Herd:
    """All possible victims of a snapshot and who of them is still there."""

    def __init__(self, candidates: Iterable[Candidate], nodes: NodeTable, supply: Supply, ledger: Ledger) -> None:
        self.nodes, self.supply, self.ledger = nodes, supply, ledger
        self.of_job: dict[str, Candidate] = {}
        self.on_node: list[list[Candidate]] = [[] for _ in nodes.names]
        self.of_leaf: dict[int, list[Candidate]] = {}
        for found in sorted(candidates, key=rank):
            self.of_job[found.job.id] = found
            self.of_leaf.setdefault(found.leaf, []).append(found)
            for index, _ in found.parts:
                self.on_node[index].append(found)
        self.gone: set[str] = set()
        self.gave: set[int] = set()
        self.shrunk: dict[str, dict[int, int]] = {}
        self._by_priority: dict[int, dict[int, int]] = {}
        for found in self.of_job.values():
            self._count_priority(found, found.gpus)
        self.log: list[int] = []

    def move(self, victim: Candidate, target: Iterable[NodePart], *, soon: bool = False) -> None:
        """The job goes to `target`, idle until now (or `soon`): its old GPUs come free soon, its queue keeps what it
        has.
        """
        self.gone.add(victim.job.id)
        self._count_priority(victim, -victim.gpus)
        if soon:
            self.supply.take_soon(target)
        else:
            self.supply.take_now(target)
        self.supply.leaving(victim.parts, self.nodes.usable)
        self.changed(index for index, _ in victim.parts)

    def changed(self, nodes: Iterable[int]) -> None:
        """GPUs of these nodes were promised or came free: their prices are out of date."""
        self.log += nodes

    def take(self, victims: Victims, givers: Givers) -> None:
        """These victims are told to go: their GPUs come free soon."""
        # A queue that gave to others in this plan may not be emptied further by its own members' swaps.
        self.gave |= {level for taking in victims.values() for level in givers.levels[taking.victim.leaf]}
        for taking in victims.values():
            self.take_back(taking)

    def take_back(self, taking: Taking) -> None:
        """One victim is told to go (again, after `let_off`)."""
        job_id = taking.victim.job.id
        if taking.whole:
            self.gone.add(job_id)
        else:
            before = self.shrunk.setdefault(job_id, {})
            for index, gpus in taking.parts:
                before[index] = before.get(index, 0) + gpus // taking.victim.task_gpus
        self._count_priority(taking.victim, -taking.gpus)
        self.supply.leaving(taking.parts, self.nodes.usable)
        self.ledger.leave(taking.victim.leaf, taking.victim.job, taking.by_type)
        self.changed(index for index, _ in taking.victim.parts)

    def let_off(self, taking: Taking) -> None:
        """Undo `take` for one victim."""
        job_id = taking.victim.job.id
        if taking.whole:
            self.gone.discard(job_id)
        else:
            for index, gpus in taking.parts:
                self.shrunk[job_id][index] -= gpus // taking.victim.task_gpus
        self._count_priority(taking.victim, taking.gpus)
        back = [(index, -gpus) for index, gpus in taking.parts]
        self.supply.leaving(back, self.nodes.usable)
        self.ledger.stay(taking.victim.leaf, taking.victim.job, taking.by_type)
        self.changed(index for index, _ in taking.victim.parts)

    def one_task_less(self, taking: Taking) -> Taking:
        """The same share of a shrinking job without one task, on the first node it would have left."""
        size = taking.victim.task_gpus
        on_node = {index: gpus // size for index, gpus in taking.parts}
        first = min(index for index, tasks in on_node.items() if tasks)
        return take_tasks(taking.victim, {**on_node, first: on_node[first] - 1}, self.nodes)

    def lower_priority(self, leaf: int, priority: int) -> int:
        """GPUs that possible victims of lower priority hold in the queue.

        Priority counts only where it comes first in the queue's order: else the same job that its turn let start would
        be evicted at once by one whose turn comes later.
        """
        if not self.ledger.tree.nodes[leaf].job_sort.startswith("priority"):
            return 0
        return sum(gpus for other, gpus in self._by_priority.get(leaf, {}).items() if other < priority)

    def priorities_below(self, leaf: int, priority: int) -> list[int]:
        """Bounds that each let one more priority of possible victims be below them, the last `priority`."""
        lower = sorted(other for other, gpus in self._by_priority.get(leaf, {}).items() if gpus and other < priority)
        return [*lower[1:], priority]

    def _count_priority(self, victim: Candidate, gpus: int) -> None:
        counts = self._by_priority.setdefault(victim.leaf, {})
        counts[victim.job.priority] = counts.get(victim.job.priority, 0) + gpus

    def usable(self, taking: Taking) -> list[NodePart]:
        """GPUs that come free on nodes in use."""
        return [(index, gpus) for index, gpus in taking.parts if self.nodes.usable >> index & 1]


def rank(victim: Candidate) -> tuple[float, float, str]:
    """Cheapest per GPU first, then the newest."""
    return victim.whole[0] / victim.gpus, victim.whole[2] / victim.gpus, victim.job.id


def freed_inside(taken: Victims, queue: int) -> int:
    """GPUs that these victims free within the queue."""
    return sum(taking.gpus for taking in taken.values() if queue in taking.victim.lineage)
