"""Defragmentation without a beneficiary: small jobs move together, so that whole nodes are free before they are needed.

A node is cleared when everything on it may move onto nodes that stay in use anyway, and only if that is worth it: a
node that becomes wholly free counts its GPUs for `worth_s` seconds, a move costs what is lost since the job's
checkpoint and its restart, the requeue delay included. Cheapest nodes come first. Nobody waits for it, so nothing is
moved while anybody is on the way out.
"""

from __future__ import annotations

from slurmext.model.plan import Move, Reason
from slurmext.model.snapshot import Defragment
from slurmext.policy.consolidate import Moves, written_moves
from slurmext.policy.placement import place
from slurmext.policy.settlement import Settlement
from slurmext.policy.supply import FreeIndex, NodePart, indices_of
from slurmext.policy.victims import Candidate

PATIENCE_S = 300.0
"""A wish for it lapses when for so long others were being evicted, or nothing was worth moving."""


def defragment(state: Settlement, wish: Defragment) -> tuple[Move, ...]:
    """The moves worth their cost, once everything else of the plan is settled."""
    if state.promises or state.evict or state.move or state.count.evicting:
        return ()
    free, gpus = state.supply.now.copy(), state.nodes.gpus
    started = {part.node for release in state.release for part in release.placement}
    staying = {state.nodes.by_name[name] for name in started}
    """Nodes that will not be cleared: somebody starts or moves there."""
    targets = {i for i in indices_of(state.nodes.usable) if free.free[i] < gpus[i]}
    made: Moves = []
    for cost, index in sorted((sum(v.whole[0] for v in movable), index) for index, movable in _clearable(state)):
        if index in staying or cost >= gpus[index] * wish.worth_s:
            continue
        movable = state.hunt.on_node[index]
        moves = _new_places(state, movable, free, targets - {index})
        if moves is None or len(made) + len(moves) > wish.most_moves:
            continue
        made += moves
        free.add((target for _, target in moves), sign=-1)
        staying |= {target for _, (target, _) in moves}
        targets.remove(index)
    return written_moves(state, made, "", Reason.DEFRAGMENT)


def _clearable(state: Settlement) -> list[tuple[int, list[Candidate]]]:
    """Nodes in use on which every job may move, and runs nowhere else."""
    found: list[tuple[int, list[Candidate]]] = []
    free, gpus = state.supply.now.free, state.nodes.gpus
    for index in indices_of(state.nodes.usable):
        jobs = state.hunt.on_node[index] if free[index] < gpus[index] else []
        here = sum(victim.gpus for victim in jobs if len(victim.parts) == 1)
        if jobs and free[index] + here == gpus[index]:
            found.append((index, jobs))
    return found


def _new_places(state: Settlement, jobs: list[Candidate], free: FreeIndex, targets: set[int]) -> Moves | None:
    """A place for each job on the target nodes of its GPU type, the fullest first; None when one has none."""
    trial, moves = free.copy(), list[tuple[Candidate, NodePart]]()
    for victim in sorted(jobs, key=lambda v: (-v.gpus, v.job.id)):
        here = state.nodes.types[victim.parts[0][0]]
        mask = state.nodes.of_type[here] & sum(1 << index for index in targets)
        target = place(trial, 1, victim.gpus, mask, None)
        if target is None:
            return None
        trial.add(target, sign=-1)
        moves.append((victim, target[0]))
    return moves
