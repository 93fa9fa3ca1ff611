"""Defragmentation: move small jobs out of the way of one that fits in the sum of what is idle, but nowhere whole.

A move costs a restart, so it must buy more than it costs: fewer GPUs are moved than the beneficiary gets, and nobody
is moved for a borrower. The place a job moves to is idle now and is
kept for it, so nobody loses GPUs by it. Only jobs on one node are moved: a gang would need several new places at once.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from slurmext.model.job import Job
from slurmext.model.plan import Move, Reason
from slurmext.policy.admission import Admission
from slurmext.policy.herd import Need
from slurmext.policy.placement import place
from slurmext.policy.round import Promise, Round, Standing
from slurmext.policy.supply import FreeIndex, NodePart, indices_of
from slurmext.policy.victims import Candidate

Moves = list[tuple[Candidate, NodePart]]
"""Jobs and where each goes."""

MOST_NODES = 64
"""Nodes looked at for one beneficiary, those that need the fewest GPUs moved first."""


class Consolidation(Admission):
    """Move."""

    def consolidate(self, leaf: int, job: Job, standing: Standing) -> bool:
        """Make room for the job by moving others. False when that is not possible or not worth it."""
        if not self.snapshot.settings.consolidate or job.gpus_per_task < 2:  # noqa: PLR2004  one GPU is never fragmented
            return False
        for mask, gpu_type in self.flavors(job):
            need = self.need(job, mask, ())
            allowed, _ = self.tasks_allowed(self.ledger.held, leaf, job, gpu_type)
            gpus = need.tasks * need.size
            if allowed < need.tasks or self.supply.now.total(mask) < gpus:
                continue
            idle, asked = self.supply.now.idle, {gpu_type or "": gpus}
            if not self.ledger.may_borrow(leaf, asked, idle) or not self.ledger.leaves_headroom(leaf, job, asked, idle):
                continue
            key = ("move", self.shape(leaf, job, standing), mask)
            if self.hopeless.get(key) == len(self.release) + self.disruptions:
                continue
            moves = self.moves(need, self.supply.now)
            if moves is None:
                self.hopeless[key] = len(self.release) + self.disruptions
                continue
            self._carry_out(leaf, job, need, moves)
            return True
        return False

    def moves(self, need: Need, free: FreeIndex, leaving: Container[str] = ()) -> Moves | None:
        """The moves that make room where these GPUs are `free`, None when there are none or they cost more than they
        bring. Jobs that are `leaving` anyway do not move.
        """
        idle = free.copy()
        nodes = self._nodes_to_clear(need, idle)
        left = need.tasks - _tasks_ready(need, idle)
        made: Moves = []
        for index in nodes:
            if left <= 0:
                break
            cleared = self._clear(index, need.size - idle.free[index] % need.size, idle, made, leaving)
            if cleared is not None:
                made += cleared
                left -= 1
        if left > 0 or sum(victim.gpus for victim, _ in made) >= need.tasks * need.size:
            return None
        return made if _makes_room(need, made, free) else None

    def _nodes_to_clear(self, need: Need, idle: FreeIndex) -> list[int]:
        """Nodes of the mask where one more task fits once others have moved, the fewest GPUs to move first."""
        found: list[tuple[int, int]] = []
        for index in indices_of(need.mask):
            spare, gpus = idle.free[index] % need.size, self.nodes.gpus[index]
            if (
                gpus >= need.size
                and idle.free[index] // need.size < (need.per_node or gpus)
                and self.hunt.on_node[index]
            ):
                found.append((need.size - spare, index))
        return [index for _, index in sorted(found)[:MOST_NODES]]

    def _clear(self, index: int, gpus: int, idle: FreeIndex, made: Moves, leaving: Container[str]) -> Moves | None:
        """Moves that free `gpus` on the node; `idle` is updated when there are such."""
        taken = {victim.job.id for victim, _ in made}
        movable = [
            victim
            for victim in self.hunt.on_node[index]
            if victim.job.id not in taken and victim.job.id not in leaving and self._may_move(victim)
        ]
        chosen = _least_that_free(movable, gpus)
        if chosen is None:
            return None
        moves: Moves = []
        trial = idle.copy()
        trial.set(index, 0)
        for victim in sorted(chosen, key=lambda v: (-v.gpus, v.job.id)):
            of_type = self.nodes.of_type[self.nodes.types[index]]
            target = place(trial, 1, victim.gpus, of_type, None)
            if target is None:
                return None
            trial.add(target, sign=-1)
            moves.append((victim, target[0]))
        idle.set(index, 0)  # what is spare here is the beneficiary's; nobody moves to a node that is being cleared
        for _, target in moves:
            idle.add([target], sign=-1)
        return moves

    def _may_move(self, victim: Candidate) -> bool:
        hunt, job_id = self.hunt, victim.job.id
        return len(victim.parts) == 1 and job_id not in hunt.gone and job_id not in hunt.shrunk

    def _carry_out(self, leaf: int, job: Job, need: Need, moves: Moves) -> None:
        for victim, target in moves:
            self.hunt.move(victim, [target])
        own = 0
        for victim, _ in moves:
            own |= 1 << victim.parts[0][0]
        soon = self.supply.soon
        parts = place(soon, need.tasks, need.size, own & need.mask, need.per_node) or place(
            soon, need.tasks, need.size, need.mask, need.per_node
        )
        assert parts is not None, "moves were checked to make room"  # noqa: S101
        idle = self.supply.take_soon(parts)
        self.ledger.start(leaf, job, self.nodes.by_type(parts))
        promise = Promise(leaf=leaf, job=job, need=need, parts=parts, idle=idle, reason=Reason.CONSOLIDATE)
        self.promises.append(replace(promise, moves=written_moves(self, moves, job.id)))
        self.disruptions += len(moves)
        self.reasons[job.id] = Reason.CONSOLIDATING


def _makes_room(need: Need, made: Moves, free: FreeIndex) -> bool:
    """Whether the beneficiary fits once all have moved, and not without any single one of them."""
    for left_out in (None, *range(len(made))):
        trial = free.copy()
        for position, (victim, target) in enumerate(made):
            if position != left_out:
                trial.add([target], sign=-1)
                trial.add(victim.parts)
        fits = trial.capacity(need.size, need.mask, need.per_node, need.tasks) >= need.tasks
        if fits != (left_out is None):
            return False
    return True


def written_moves(
    state: Round, moves: Moves, beneficiary: str, reason: Reason = Reason.CONSOLIDATE
) -> tuple[Move, ...]:
    """The moves as the plan has them."""
    return tuple(
        Move(
            job=victim.job.id,
            source=state.placement(victim.parts),
            target=state.placement([target]),
            beneficiary=beneficiary,
            reason=reason,
        )
        for victim, target in moves
    )


def _tasks_ready(need: Need, idle: FreeIndex) -> int:
    """Tasks that fit now; their GPUs are taken out of `idle` so that nobody moves there."""
    ready = min(need.tasks, idle.capacity(need.size, need.mask, need.per_node, need.tasks))
    if ready:
        idle.add(place(idle, ready, need.size, need.mask, need.per_node) or [], sign=-1)
    return ready


def _least_that_free(movable: list[Candidate], gpus: int) -> list[Candidate] | None:
    """Few GPUs, then cheap ones: the smallest single job that frees enough, or small ones added up."""
    single = [victim for victim in movable if victim.gpus >= gpus]
    best = [min(single, key=lambda v: (v.gpus, v.whole, v.job.id))] if single else None
    several: list[Candidate] = []
    for victim in sorted((v for v in movable if v.gpus < gpus), key=lambda v: (-v.gpus, v.whole, v.job.id)):
        if sum(v.gpus for v in several) < gpus:
            several.append(victim)
    total = sum(victim.gpus for victim in several)
    for victim in sorted(several, key=lambda v: (-v.whole[0], v.job.id)):
        if total - victim.gpus >= gpus:
            several.remove(victim)
            total -= victim.gpus
    if total >= gpus and (best is None or total < best[0].gpus):
        return several
    return best
