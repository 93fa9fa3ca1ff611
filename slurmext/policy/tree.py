"""The quota tree: every queue with its numbers filled in, and what "guaranteed" means at every level.

Two rules make all later arithmetic short:

* Jobs sit on leaves only. A job submitted to a queue that has children sits on a hidden leaf beside those children,
  which is guaranteed what the parent was given and did not pass on to them.
* A guarantee is a number per GPU type plus a *floating* rest that any type may use. A queue without `by_type` has
  only the floating part; where the types add up to the total there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slurmext.model.queue import FenceMode, PreDrain, Queue
from slurmext.model.snapshot import Snapshot

ROOT = 0
"""Index of the tree's root, the cluster; it has no numbers."""

HIDDEN_LEAF = "/."
"""Ends the key of the hidden leaf that holds a parent's own jobs; no real path component is a dot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueNode:
    """One queue with every default filled in. `lineage` is the queue itself and its ancestors, root left out.

    `kept` GPUs are never lent while the queue does not use them itself: the largest of `reserved`, what the lending
    limit holds back, and the whole guarantee behind an outward fence. `tells`: who is in the way of a calendar's change
    starts all the same, and is told.
    """

    index: int
    key: str
    path: str
    parent: int | None
    children: tuple[int, ...]
    lineage: tuple[int, ...]
    guaranteed: int
    floating: int
    type_guaranteed: Mapping[str, int]
    max: int | None
    type_max: Mapping[str, int]
    kept: int
    type_kept: Mapping[str, int]
    may_borrow: bool
    weight: float
    priority: int
    min_runtime_s: float
    preemption_delay_s: float
    job_sort: str
    user_max: Mapping[str, int | None]
    group_max: Mapping[str, int]
    each_user_max: int | None
    shares_guarantee: bool
    limits_people: bool
    counts_people: bool
    reserved: int
    lending_limit: int | None
    tells: bool

    def most_of(self, user: str) -> int | None:
        """Most GPUs the user may hold in the queue: what it says of the user, else of everybody. None = no limit."""
        return self.user_max.get(user, self.each_user_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueTree:
    """All queues; `leaf_of` maps a path that a job names to the leaf it sits on.

    `typed` says whether any queue has quotas per GPU type, `keeps` whether any keeps GPUs from being lent, `changes`
    whether a calendar will change any: then it matters how long a job runs.
    """

    nodes: tuple[QueueNode, ...]
    leaf_of: Mapping[str, int]
    by_path: Mapping[str, int]
    typed: bool
    keeps: bool
    changes: bool

    def own(self, leaf: int) -> QueueNode:
        """The queue whose guarantee jobs of the leaf use as their own: itself, or its parent where they share it."""
        node = self.nodes[leaf]
        return self.nodes[node.lineage[1]] if node.shares_guarantee else node

    def common_ancestor(self, one: int, other: int) -> int:
        """Index of the lowest queue that holds both leaves."""
        found = ROOT
        for a, b in zip(reversed(self.nodes[one].lineage), reversed(self.nodes[other].lineage), strict=False):
            if a != b:
                break
            found = a
        return found

    def below(self, leaf: int, ancestor: int) -> tuple[int, ...]:
        """The leaf's lineage strictly below `ancestor`, leaf first."""
        lineage = self.nodes[leaf].lineage
        return lineage if ancestor == ROOT else lineage[: lineage.index(ancestor)]


def parent_path(path: str) -> str:
    """`org/team` -> `org`; a top-level queue has the root, the empty path."""
    return path.rpartition("/")[0]


def queue_tree(snapshot: Snapshot) -> QueueTree:
    """The tree of the snapshot's queues, in order of path whatever the order of the file."""
    queues = _with_parents(snapshot.queues)
    busy = {job.queue for job in snapshot.jobs}
    parents = {parent_path(path) for path in queues}
    keys = sorted([*queues, *(path + HIDDEN_LEAF for path in parents if path in busy and path in queues)])
    index_of = {"": ROOT} | {key: index for index, key in enumerate(keys, start=1)}
    children: list[list[int]] = [[] for _ in index_of]
    for key in keys:
        children[index_of[parent_path(key)]].append(index_of[key])
    numbers = _Numbers(queues, keys, index_of, children)
    nodes = [_root(tuple(children[ROOT]))]
    for key in keys:
        index = index_of[key]
        parent = index_of[parent_path(key)]
        above = nodes[parent].lineage
        nodes.append(numbers.node(key, index=index, parent=parent, lineage=(index, *above)))
    leaf_of = {path: index_of.get(path + HIDDEN_LEAF, index_of[path]) for path in queues}
    return QueueTree(
        nodes=tuple(nodes),
        leaf_of=leaf_of,
        by_path={path: index_of[path] for path in queues},
        typed=any(queue.by_type for queue in queues.values()),
        keeps=any(node.kept or any(node.type_kept.values()) for node in nodes),
        changes=any(queue.changes for queue in queues.values()),
    )


def _with_parents(listed: Iterable[Queue]) -> dict[str, Queue]:
    """The queues by path, with parents that nobody listed: those have no numbers of their own."""
    queues = {queue.path: queue for queue in listed}
    for path in list(queues):
        above = parent_path(path)
        while above and above not in queues:
            queues[above] = Queue(path=above)
            above = parent_path(above)
    return queues


def _root(children: tuple[int, ...]) -> QueueNode:
    return QueueNode(
        index=ROOT,
        key="",
        path="",
        parent=None,
        children=children,
        lineage=(),
        guaranteed=0,
        floating=0,
        type_guaranteed={},
        max=None,
        type_max={},
        kept=0,
        type_kept={},
        may_borrow=True,
        weight=1,
        priority=0,
        min_runtime_s=0,
        preemption_delay_s=0,
        job_sort="",
        user_max={},
        group_max={},
        each_user_max=None,
        shares_guarantee=False,
        limits_people=False,
        counts_people=False,
        reserved=0,
        lending_limit=None,
        tells=False,
    )


class _Numbers:
    """Guarantees from the leaves up, delays from the root down."""

    def __init__(
        self, queues: Mapping[str, Queue], keys: list[str], index_of: Mapping[str, int], children: list[list[int]]
    ) -> None:
        self._queues = queues
        self._children = children
        self._types: dict[str, dict[str, int]] = {}
        self._total: dict[str, int] = {}
        key_at = {index: key for key, index in index_of.items()}
        for key in sorted(queues, key=lambda path: -path.count("/")):
            below = [key_at[index] for index in children[index_of[key]] if not key_at[index].endswith(HIDDEN_LEAF)]
            own = {gpu_type: quota.guaranteed for gpu_type, quota in queues[key].by_type.items()}
            for gpu_type in sorted({gpu_type for child in below for gpu_type in self._types[child]}):
                own.setdefault(gpu_type, sum(self._types[child].get(gpu_type, 0) for child in below))
            self._types[key] = own
            stated = queues[key].guaranteed
            summed = max(sum(self._total[child] for child in below), sum(own.values()))
            self._total[key] = summed if stated is None else stated
        for key in keys:
            if key.endswith(HIDDEN_LEAF):
                parent = parent_path(key)
                below = [key_at[index] for index in children[index_of[parent]] if key_at[index] != key]
                self._total[key] = max(0, self._total[parent] - sum(self._total[child] for child in below))
                self._types[key] = {
                    gpu_type: max(0, count - sum(self._types[child].get(gpu_type, 0) for child in below))
                    for gpu_type, count in self._types[parent].items()
                }

    def node(self, key: str, *, index: int, parent: int, lineage: tuple[int, ...]) -> QueueNode:
        hidden = key.endswith(HIDDEN_LEAF)
        path = parent_path(key) if hidden else key
        stated = self._queues[path]
        queue = Queue(path=path, job_sort=stated.job_sort) if hidden else stated
        guaranteed, types = self._total[key], self._types[key]
        kept = max(queue.reserved, sum(quota.reserved for quota in queue.by_type.values()))
        if queue.lending_limit is not None:
            kept = max(kept, guaranteed - queue.lending_limit)
        if queue.fence in {FenceMode.OUT, FenceMode.BOTH}:
            kept = max(kept, guaranteed)
        line = [self._queues[above] for above in _paths_up(path)]
        limited = bool(queue.users or queue.groups) or queue.each_user_max is not None
        return QueueNode(
            index=index,
            key=key,
            path=path,
            parent=parent,
            children=tuple(self._children[index]),
            lineage=lineage,
            guaranteed=guaranteed,
            floating=max(0, guaranteed - sum(types.values())),
            type_guaranteed=types,
            max=queue.max,
            type_max={gpu_type: quota.max for gpu_type, quota in queue.by_type.items() if quota.max is not None},
            kept=kept,
            type_kept={gpu_type: quota.reserved for gpu_type, quota in queue.by_type.items() if quota.reserved},
            may_borrow=queue.fence not in {FenceMode.IN, FenceMode.BOTH},
            weight=queue.weight,
            priority=queue.priority,
            min_runtime_s=max(above.min_runtime_s for above in line),
            preemption_delay_s=max(above.preemption_delay_s for above in line),
            job_sort=queue.job_sort,
            user_max={user: limit.max for user, limit in queue.users.items()},
            group_max={group: limit.max for group, limit in queue.groups.items() if limit.max is not None},
            each_user_max=queue.each_user_max,
            shares_guarantee=hidden or (queue.shares_guarantee and parent != ROOT),
            limits_people=limited,
            counts_people=limited or "fair" in queue.job_sort,
            reserved=queue.reserved,
            lending_limit=queue.lending_limit,
            tells=stated.pre_drain is PreDrain.TELL,
        )


def _paths_up(path: str) -> list[str]:
    """`a/b/c` -> [`a/b/c`, `a/b`, `a`]."""
    parts = path.split("/")
    return ["/".join(parts[:length]) for length in range(len(parts), 0, -1)]
