"""GPUs on nodes, indexed so that "does it fit" never walks the nodes.

Nodes are numbered by name; a set of nodes is one Python integer used as a bit mask, and nodes are kept in buckets by
how many GPUs they have. Whether an 80-GPU gang fits is then a few bit counts, whatever the size of the cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from slurmext.model.job import Placement
from slurmext.model.node import Node, NodeState

NodePart = tuple[int, int]
"""(node number, whole GPUs)."""


class NodeTable:
    """The nodes by name. `usable` masks those that are up, `of_type` those usable of one GPU type."""

    __slots__ = ("by_name", "gpus", "known", "names", "of_type", "rank", "types", "usable")

    def __init__(self, nodes: Iterable[Node]) -> None:
        ordered = sorted(nodes, key=lambda node: node.name)
        self.names = [node.name for node in ordered]
        self.gpus = [node.gpus for node in ordered]
        self.types = [node.gpu_type for node in ordered]
        self.by_name = {name: index for index, name in enumerate(self.names)}
        self.usable = mask_of(i for i, node in enumerate(ordered) if node.state is NodeState.UP)
        self.known = mask_of(i for i, node in enumerate(ordered) if node.state in {NodeState.UP, NodeState.DRAIN})
        self.of_type: dict[str, int] = {}
        for gpu_type in sorted(set(self.types)):
            self.of_type[gpu_type] = self.usable & mask_of(i for i, found in enumerate(self.types) if found == gpu_type)

    def mask_of(self, names: Iterable[str]) -> int:
        """The nodes of these names, as far as they are known."""
        return mask_of(index for name in names if (index := self.by_name.get(name)) is not None)

    def parts(self, placement: Placement) -> list[NodePart]:
        """The placement in order of node, each node once; nodes the snapshot does not list are left out."""
        if len(placement) == 1:
            index = self.by_name.get(placement[0].node)
            return [] if index is None else [(index, placement[0].gpus)]
        found: dict[int, int] = {}
        for part in placement:
            index = self.by_name.get(part.node)
            if index is not None:
                found[index] = found.get(index, 0) + part.gpus
        return sorted(found.items())

    def by_type(self, parts: Iterable[NodePart]) -> dict[str, int]:
        """GPUs per type."""
        counts: dict[str, int] = {}
        for index, gpus in parts:
            counts[self.types[index]] = counts.get(self.types[index], 0) + gpus
        return counts


def mask_of(indices: Iterable[int]) -> int:
    """The set of node numbers as one integer."""
    mask = 0
    for index in indices:
        mask |= 1 << index
    return mask


def indices_of(mask: int) -> Iterator[int]:
    """The node numbers of a mask, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class FreeIndex:
    """Usable GPUs per node with nodes in buckets by count."""

    __slots__ = ("_types", "buckets", "free", "idle")

    def __init__(self, free: Sequence[int], types: Sequence[str], usable: int) -> None:
        self._types = types
        self.free = [count if usable >> index & 1 else 0 for index, count in enumerate(free)]
        self.buckets = [0] * (max(self.free, default=0) + 1)
        self.idle: dict[str | None, int] = {None: sum(self.free)}
        members: list[list[int]] = [[] for _ in self.buckets]
        for index, count in enumerate(self.free):
            members[count].append(index)
            self.idle[types[index]] = self.idle.get(types[index], 0) + count
        self.buckets = [_dense_mask(indices, len(self.free)) for indices in members]

    def copy(self) -> FreeIndex:
        """An independent copy to try things on."""
        twin = FreeIndex.__new__(FreeIndex)
        twin._types = self._types  # noqa: SLF001  same class
        twin.free = self.free.copy()
        twin.buckets = self.buckets.copy()
        twin.idle = self.idle.copy()
        return twin

    def set(self, index: int, count: int) -> None:
        """The node now has `count` GPUs."""
        before = self.free[index]
        if count == before:
            return
        bit = 1 << index
        self.buckets[before] ^= bit
        while count >= len(self.buckets):
            self.buckets.append(0)
        self.buckets[count] |= bit
        self.free[index] = count
        self.idle[None] += count - before
        self.idle[self._types[index]] += count - before

    def add(self, parts: Iterable[NodePart], *, sign: int = 1) -> None:
        """Give GPUs back to their nodes (or with sign -1 take them)."""
        for index, gpus in parts:
            self.set(index, self.free[index] + sign * gpus)

    def capacity(self, size: int, mask: int, per_node: int | None, enough: int) -> int:
        """How many tasks of `size` GPUs fit on the nodes of `mask`; counting stops at `enough`."""
        found = 0
        for count in range(len(self.buckets) - 1, size - 1, -1):
            nodes = self.buckets[count] & mask
            if nodes:
                each = count // size if per_node is None else min(count // size, per_node)
                found += nodes.bit_count() * each
                if found >= enough:
                    return found
        return found

    def total(self, mask: int) -> int:
        """GPUs on the nodes of `mask`."""
        return sum((nodes & mask).bit_count() * count for count, nodes in enumerate(self.buckets) if count)


def _dense_mask(indices: Sequence[int], length: int) -> int:
    """`mask_of` for many nodes in linear time."""
    digits = bytearray(length // 8 + 1)
    for index in indices:
        digits[index >> 3] |= 1 << (index & 7)
    return int.from_bytes(digits, "little")


class Supply:
    """What can be had when: `now`, `soon` (with what is already leaving) and `near` (with jobs about to end).

    Each holds at least what the one before it holds. Promising GPUs that are only there soon takes as little as
    possible from what is there now, so a wait does not idle more than it must.
    """

    __slots__ = ("near", "now", "soon")

    def __init__(self, now: FreeIndex, soon: FreeIndex, near: FreeIndex) -> None:
        self.now, self.soon, self.near = now, soon, near

    def take_now(self, parts: Iterable[NodePart]) -> None:
        """GPUs are used from this moment."""
        for index, gpus in parts:
            for level in (self.now, self.soon, self.near):
                level.set(index, level.free[index] - gpus)

    def take_soon(self, parts: Iterable[NodePart]) -> list[NodePart]:
        """Promise GPUs that are there soon; returns those of them that are idle now and so must be kept idle."""
        idle: list[NodePart] = []
        for index, gpus in parts:
            self.near.set(index, self.near.free[index] - gpus)
            self.soon.set(index, self.soon.free[index] - gpus)
            idle += self._clamp(index)
        return idle

    def take_near(self, parts: Iterable[NodePart]) -> list[NodePart]:
        """Promise GPUs of jobs about to end; returns those that are idle now."""
        idle: list[NodePart] = []
        for index, gpus in parts:
            self.near.set(index, self.near.free[index] - gpus)
            self.soon.set(index, min(self.soon.free[index], self.near.free[index]))
            idle += self._clamp(index)
        return idle

    def give_back(self, parts: Iterable[NodePart]) -> None:
        """Undo `take_now`."""
        for index, gpus in parts:
            for level in (self.now, self.soon, self.near):
                level.set(index, level.free[index] + gpus)

    def break_promise(self, parts: Iterable[NodePart], idle: Iterable[NodePart]) -> None:
        """Undo `take_soon`; `idle` is what it returned."""
        for index, gpus in parts:
            self.soon.set(index, self.soon.free[index] + gpus)
            self.near.set(index, self.near.free[index] + gpus)
        for index, gpus in idle:
            self.now.set(index, self.now.free[index] + gpus)

    def leaving(self, parts: Iterable[NodePart], usable: int) -> None:
        """GPUs of a job that was told to go become available soon; those on nodes out of use do not."""
        for index, gpus in parts:
            if usable >> index & 1:
                self.soon.set(index, self.soon.free[index] + gpus)
                self.near.set(index, self.near.free[index] + gpus)

    def _clamp(self, index: int) -> list[NodePart]:
        excess = self.now.free[index] - self.soon.free[index]
        if excess <= 0:
            return []
        self.now.set(index, self.soon.free[index])
        return [(index, excess)]


def parts_of(tasks: Mapping[int, int] | Iterable[NodePart], size: int) -> list[NodePart]:
    """Tasks per node -> GPUs per node."""
    return [(index, count * size) for index, count in dict(tasks).items()]
