"""Which nodes a job gets: small jobs fill the fullest nodes, gangs use the fewest.

Both keep whole nodes free for those who need whole nodes. Ties go to the node first by name, so a plan does not depend
on the order of its input.
"""

from __future__ import annotations

from collections.abc import Sequence

from slurmext.policy.supply import FreeIndex, NodePart, NodeTable, parts_of


def flavors(types: Sequence[str], nodes: NodeTable, *, typed: bool) -> list[tuple[int, str | None]]:
    """The node sets to try for a job that accepts `types`, in its order of preference, as (mask, type).

    A job that lists types is offered each type by itself and last a mixture. One that takes any type is offered all
    nodes at once, unless some queue has quotas per type: then what it would be charged depends on the type.
    """
    accepted = [name for name in (types or sorted(nodes.of_type)) if name in nodes.of_type]
    every = 0
    for name in accepted:
        every |= nodes.of_type[name]
    if not types and not typed:
        return [(every, None)]
    single: list[tuple[int, str | None]] = [(nodes.of_type[name], name) for name in accepted]
    return [*single, (every, None)] if len(single) > 1 else single


def place(free: FreeIndex, tasks: int, size: int, mask: int, per_node: int | None) -> list[NodePart] | None:
    """GPUs per node for `tasks` tasks of `size` GPUs on nodes of `mask`, None when they do not fit.

    `per_node` is the most tasks on one node, as Slurm's --ntasks-per-node; it is met exactly where that is possible.
    """
    if free.capacity(size, mask, per_node, tasks) < tasks:
        return None
    if per_node is None or per_node >= tasks:
        whole = _best_fit(free, tasks * size, mask)
        if whole is not None:
            return [(whole, tasks * size)]
    elif (exact := _exactly(free, tasks, size, mask, per_node)) is not None:
        return parts_of(exact, size)
    return parts_of(_fewest_nodes(free, tasks, size, mask, per_node), size)


def _best_fit(free: FreeIndex, gpus: int, mask: int) -> int | None:
    """The node with the fewest GPUs that still has `gpus`."""
    for count in range(gpus, len(free.buckets)):
        nodes = free.buckets[count] & mask
        if nodes:
            return (nodes & -nodes).bit_length() - 1
    return None


def _exactly(free: FreeIndex, tasks: int, size: int, mask: int, per_node: int) -> list[NodePart] | None:
    """`per_node` tasks on every node (the last takes the rest), each on the fullest node that has room."""
    found: list[NodePart] = []
    while tasks:
        chunk = min(tasks, per_node)
        index = _best_fit(free, chunk * size, mask)
        if index is None:
            return None
        found.append((index, chunk))
        mask &= ~(1 << index)
        tasks -= chunk
    return found


def _fewest_nodes(free: FreeIndex, tasks: int, size: int, mask: int, per_node: int | None) -> list[NodePart]:
    """As many tasks per node as possible, and the rest on the fullest node that has room for it."""
    found: list[NodePart] = []
    most = (len(free.buckets) - 1) // size
    for each in range(most if per_node is None else min(most, per_node), 0, -1):
        for count in range(each * size, len(free.buckets)):
            if count // size != each and each != per_node:
                break
            nodes = free.buckets[count] & mask
            while nodes and tasks >= each:
                low = nodes & -nodes
                found.append((low.bit_length() - 1, each))
                nodes ^= low
                mask ^= low
                tasks -= each
        if tasks == 0:
            return found
        if tasks < each:
            index = _best_fit(free, tasks * size, mask)
            if index is not None:
                found.append((index, tasks))
                return found
    return found
