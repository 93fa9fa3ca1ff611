"""Who uses how much, at every level of the tree, and what may be added or taken.

Four counts are kept because a GPU in transition must be counted against whoever it would help:

* `held`: every GPU a job has now, completing, suspended and unknown jobs included. Limits and guarantees are tested
  against it before anything starts.
* `expected`: `held` without the victims of this plan. Whether a queue may reclaim is tested against it.
* `lasting`: that without what else is on its way out. A job that only has to wait is tested against it.
* `solid`: running jobs that are known and stay. A queue gives only what it has above its guarantee in this count, so
  an uncertain or a leaving job never makes room for one eviction too many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from slurmext.model.job import Job
from slurmext.model.plan import Reason
from slurmext.policy.drain import Drain
from slurmext.policy.headroom import Headroom
from slurmext.policy.tree import ROOT, QueueNode, QueueTree

GpusByType = Mapping[str, int]
"""Whole GPUs per GPU type."""

UNLIMITED = 1 << 60


class Usage:
    """One count of whole GPUs in use, for every queue of the tree, and every user and group that it limits."""

    __slots__ = ("_tree", "_typed", "groups", "total", "users")

    def __init__(self, tree: QueueTree) -> None:
        self._tree = tree
        self.total = [0] * len(tree.nodes)
        self._typed: list[dict[str, int]] = [{} for _ in tree.nodes] if tree.typed else []
        self.users: dict[tuple[int, str], int] = {}
        self.groups: dict[tuple[int, str], int] = {}

    def add(self, leaf: int, job: Job, gpus: GpusByType, *, sign: int = 1) -> None:
        """Count (or with sign -1 uncount) GPUs of a job on `leaf`."""
        amount = sign * sum(gpus.values())
        for index in self._tree.nodes[leaf].lineage:
            self.total[index] += amount
            if self._typed:
                counts = self._typed[index]
                for gpu_type, count in gpus.items():
                    counts[gpu_type] = counts.get(gpu_type, 0) + sign * count
            if self._tree.nodes[index].counts_people:
                self._add_people(index, job, amount)

    def _add_people(self, index: int, job: Job, amount: int) -> None:
        self.users[index, job.user] = self.users.get((index, job.user), 0) + amount
        for group in job.groups:
            self.groups[index, group] = self.groups.get((index, group), 0) + amount

    def of_user(self, index: int, user: str) -> int:
        """GPUs the user holds in the queue; only kept where the queue or its order looks at users."""
        return self.users.get((index, user), 0)

    def of_type(self, index: int, gpu_type: str) -> int:
        """GPUs of one type in use; only kept where some queue has quotas per type."""
        return self._typed[index].get(gpu_type, 0)

    def floating(self, node: QueueNode) -> int:
        """GPUs in use that no per-type guarantee covers: they use up the floating guarantee first."""
        if not self._typed:
            return self.total[node.index]
        own = node.type_guaranteed
        return self.total[node.index] - sum(
            min(count, own.get(gpu_type, 0)) for gpu_type, count in self._typed[node.index].items()
        )

    def copy(self) -> Usage:
        """An independent copy to try things on."""
        twin = Usage.__new__(Usage)
        twin._tree = self._tree  # noqa: SLF001  same class
        twin.total = self.total.copy()
        twin._typed = [counts.copy() for counts in self._typed]  # noqa: SLF001
        twin.users, twin.groups = self.users.copy(), self.groups.copy()
        return twin

    def guarantee_room(self, node: QueueNode, gpu_type: str | None) -> int:
        """GPUs (of `gpu_type`) the queue may add and still be within what it is guaranteed at this level."""
        room = max(0, node.floating - self.floating(node))
        if gpu_type is not None and self._typed:
            room += max(0, node.type_guaranteed.get(gpu_type, 0) - self.of_type(node.index, gpu_type))
        return room

    def guarantee_room_in_all(self, node: QueueNode) -> int:
        """GPUs of whatever types the queue may add at most and still be within what it is guaranteed at this level."""
        room = self.guarantee_room(node, None)
        if self._typed:
            own = node.type_guaranteed.items()
            room += sum(max(0, count - self.of_type(node.index, gpu_type)) for gpu_type, count in own)
        return room

    def within_guarantee(self, node: QueueNode, gpus: GpusByType) -> bool:
        """True when all of `gpus` on top of what is in use is covered by the queue's guarantee at this level."""
        if len(gpus) == 1:
            ((gpu_type, count),) = gpus.items()
            return count <= self.guarantee_room(node, gpu_type)
        if not self._typed:
            return sum(gpus.values()) <= self.guarantee_room(node, None)
        uncovered = sum(
            max(0, count - max(0, node.type_guaranteed.get(gpu_type, 0) - self.of_type(node.index, gpu_type)))
            for gpu_type, count in gpus.items()
        )
        return uncovered <= max(0, node.floating - self.floating(node))

    def can_give(self, node: QueueNode, gpus: GpusByType) -> bool:
        """True when the queue keeps all it is guaranteed at this level after losing `gpus`."""
        if not self._typed:
            return self.total[node.index] - sum(gpus.values()) >= node.guaranteed
        uncovered = 0
        for gpu_type, count in gpus.items():
            spare = self.of_type(node.index, gpu_type) - node.type_guaranteed.get(gpu_type, 0)
            if count > spare:
                return False
            uncovered += count
        return self.floating(node) - uncovered >= node.floating


class Kept:
    """GPUs that must stay idle because their owners never lend them: `reserved`, lending limits, outward fences.

    A queue's subtree holds back the larger of its own number and the sum of its children's, less what it uses. One
    instance counts all GPUs, further ones a single type.
    """

    __slots__ = ("_held", "_kept", "_sums", "_tree")

    def __init__(self, tree: QueueTree, used: Callable[[int], int], gpu_type: str | None = None) -> None:
        self._tree = tree
        self._kept = [n.kept if gpu_type is None else n.type_kept.get(gpu_type, 0) for n in tree.nodes]
        self._held = [0] * len(tree.nodes)
        self._sums = [0] * len(tree.nodes)
        for node in sorted(tree.nodes, key=lambda n: -len(n.lineage)):
            self._held[node.index] = max(0, self._kept[node.index] - used(node.index), self._sums[node.index])
            if node.parent is not None:
                self._sums[node.parent] += self._held[node.index]

    def use(self, leaf: int, used: Callable[[int], int]) -> None:
        """Recount the leaf's lineage; `used` gives the GPUs in use of a queue."""
        for index in self._tree.nodes[leaf].lineage:
            node = self._tree.nodes[index]
            fresh = max(0, self._kept[index] - used(index), self._sums[index])
            if node.parent is not None:
                self._sums[node.parent] += fresh - self._held[index]
            self._held[index] = fresh

    def below(self, parent: int) -> int:
        """GPUs that must stay idle for the queues under `parent`."""
        return self._sums[parent]

    def allows(self, leaf: int, parent: int, gpus: int, *, idle: int, used: Callable[[int], int]) -> bool:
        """Whether `leaf` may take `gpus` of the `idle` ones without touching what others under `parent` keep.

        Where too few are idle already (a node was lost), whoever does not make it worse may go on.
        """
        before = idle - self._sums[parent]
        sums_change = 0
        for index in self._tree.below(leaf, parent):
            sums = self._sums[index] + sums_change
            fresh = max(0, self._kept[index] - used(index) - gpus, sums)
            sums_change = fresh - self._held[index]
        after = idle - gpus - self._sums[parent] - sums_change
        return after >= 0 or after >= before


class Ledger:
    """The four usages and the limits tested against them."""

    __slots__ = ("_type_kept", "drain", "expected", "headroom", "held", "kept", "lasting", "solid", "tree")

    def __init__(self, tree: QueueTree, *, held: Usage, lasting: Usage, solid: Usage) -> None:
        """Copies of what is in use before anything is planned."""
        self.tree = tree
        self.held, self.expected, self.lasting, self.solid = held.copy(), held.copy(), lasting.copy(), solid.copy()
        self.drain: Drain | None = None
        self.headroom: Headroom | None = None
        self.kept = Kept(tree, self._used(None))
        types = sorted({gpu_type for node in tree.nodes for gpu_type in node.type_kept})
        self._type_kept = {gpu_type: Kept(tree, self._used(gpu_type), gpu_type) for gpu_type in types}

    def _used(self, gpu_type: str | None) -> Callable[[int], int]:
        held = self.held
        return held.total.__getitem__ if gpu_type is None else lambda index: held.of_type(index, gpu_type)

    def start(self, leaf: int, job: Job, gpus: GpusByType) -> None:
        """A job starts, or is promised its GPUs."""
        for usage in (self.held, self.expected, self.lasting):
            usage.add(leaf, job, gpus)
        if self.drain is not None:
            self.drain.add(leaf, job, gpus)
        if self.headroom is not None:
            self.headroom.add(leaf, job, sum(gpus.values()))
        self.recount(leaf)

    def leave(self, leaf: int, job: Job, gpus: GpusByType) -> None:
        """A running job is told to go: its GPUs are still held, but neither lasting nor there to be given."""
        for usage in (self.expected, self.lasting, self.solid):
            usage.add(leaf, job, gpus, sign=-1)

    def stop(self, leaf: int, job: Job, gpus: GpusByType) -> None:
        """Undo `start`."""
        for usage in (self.held, self.expected, self.lasting):
            usage.add(leaf, job, gpus, sign=-1)
        if self.drain is not None:
            self.drain.add(leaf, job, gpus, sign=-1)
        if self.headroom is not None:
            self.headroom.add(leaf, job, -sum(gpus.values()))
        self.recount(leaf)

    def stay(self, leaf: int, job: Job, gpus: GpusByType) -> None:
        """Undo `leave`."""
        for usage in (self.expected, self.lasting, self.solid):
            usage.add(leaf, job, gpus)

    def recount(self, leaf: int) -> None:
        """Bring what is kept idle up to date after usage changed."""
        if self.tree.keeps:
            self.kept.use(leaf, self._used(None))
            for gpu_type, kept in self._type_kept.items():
                kept.use(leaf, self._used(gpu_type))

    def limit_room(self, usage: Usage, leaf: int, job: Job, gpu_type: str | None) -> tuple[int, Reason]:
        """GPUs the leaf may add under every limit up the tree, and which limit is the tightest."""
        room, reason = UNLIMITED, Reason.QUEUE_MAX
        for index in self.tree.nodes[leaf].lineage:
            node = self.tree.nodes[index]
            if node.max is not None and node.max - usage.total[index] < room:
                room, reason = node.max - usage.total[index], Reason.QUEUE_MAX
            if gpu_type is not None and gpu_type in node.type_max:
                left = node.type_max[gpu_type] - usage.of_type(index, gpu_type)
                if left < room:
                    room, reason = left, Reason.QUEUE_MAX
            if node.limits_people:
                left, who = _people_room(usage, node, job)
                if left < room:
                    room, reason = left, who
            if not node.may_borrow:
                left = usage.guarantee_room(node, gpu_type) if gpu_type else usage.guarantee_room_in_all(node)
                if left < room:
                    room, reason = left, Reason.QUEUE_FENCE
        return room, reason

    def over_limit(self, usage: Usage, leaf: int, job: Job, gpus: GpusByType) -> Reason | None:
        """The limit that `gpus` more would break, None when all hold."""
        total, nodes = sum(gpus.values()), self.tree.nodes
        room, reason = self.limit_room(usage, leaf, job, None)
        if total > room:
            return reason
        for gpu_type, count in gpus.items():
            room, reason = self.limit_room(usage, leaf, job, gpu_type)
            if count > room:
                return reason
        if len(gpus) > 1 and any(
            not nodes[index].may_borrow and not usage.within_guarantee(nodes[index], gpus)
            for index in nodes[leaf].lineage
        ):
            return Reason.QUEUE_FENCE
        return None

    def borrowing_under(self, leaf: int, gpus: GpusByType) -> int | None:
        """The highest queue among whose children the leaf would borrow with `gpus` more; None: all its own.

        What is within the leaf's own guarantee is its own whoever else borrows: the borrower pays, by reclaim.
        """
        lineage = self.tree.nodes[leaf].lineage
        if self.held.within_guarantee(self.tree.nodes[lineage[0]], gpus):
            return None
        for index in reversed(lineage):
            if not self.held.within_guarantee(self.tree.nodes[index], gpus):
                parent = self.tree.nodes[index].parent
                return ROOT if parent is None else parent
        return None

    def may_borrow(self, leaf: int, gpus: GpusByType, idle: Mapping[str | None, int]) -> bool:
        """Whether taking `gpus` leaves idle what others keep. `idle` is GPUs idle now, per type and (None) in all."""
        if not self.tree.keeps:
            return True
        parent = self.borrowing_under(leaf, gpus)
        if parent is None:
            return True
        total = sum(gpus.values())
        if not self.kept.allows(leaf, parent, total, idle=idle[None], used=self._used(None)):
            return False
        for gpu_type, kept in self._type_kept.items():
            count = gpus.get(gpu_type, 0)
            idle_here = idle.get(gpu_type, 0)
            if count and not kept.allows(leaf, parent, count, idle=idle_here, used=self._used(gpu_type)):
                return False
        return True

    def leaves_headroom(self, leaf: int, job: Job, gpus: GpusByType, idle: Mapping[str | None, int]) -> bool:
        """Whether the job, with `gpus` of the `idle` ones, leaves what bursts of guaranteed work shall find."""
        if self.headroom is None or self.borrowing_under(leaf, gpus) != ROOT:
            return True
        return self.headroom.allows(job, sum(gpus.values()), idle=idle[None], used=self.held.total)

    def claims(self, leaf: int, gpus: GpusByType) -> tuple[int, ...]:
        """The levels of the leaf's lineage at which `gpus` more are within the guarantee.

        At such a level the demand may be reclaimed from that queue's siblings.
        """
        nodes = self.tree.nodes
        return tuple(i for i in nodes[leaf].lineage if self.expected.within_guarantee(nodes[i], gpus))


def _people_room(usage: Usage, node: QueueNode, job: Job) -> tuple[int, Reason]:
    """GPUs that the limits of this one queue on users and groups leave the job's user, and the tightest of them."""
    room, reason = UNLIMITED, Reason.USER_MAX
    most = node.most_of(job.user)
    if most is not None:
        room = most - usage.users.get((node.index, job.user), 0)
    for group in job.groups:
        if group in node.group_max:
            left = node.group_max[group] - usage.groups.get((node.index, group), 0)
            if left < room:
                room, reason = left, Reason.GROUP_MAX
    return room, reason
