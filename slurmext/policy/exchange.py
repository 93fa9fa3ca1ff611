"""The last resort of a guarantee: borrowers leave wherever they are, and others move into the gaps they leave.

Where borrowers are small and spread over many nodes, those that may be taken free no node that a large task needs. Then
as many leave as are missing in the sum, the cheapest first, and jobs that stay move out of the way. Nobody loses its
guarantee by that, but more jobs are disturbed than by any other step, so it comes last.
"""

from __future__ import annotations

from dataclasses import replace

from slurmext.model.job import Job
from slurmext.model.plan import Reason
from slurmext.policy.consolidate import Moves, written_moves
from slurmext.policy.eviction import Eviction
from slurmext.policy.herd import Givers, Need, Victims
from slurmext.policy.round import Promise, Standing


class Exchange(Eviction):
    """Evict and move."""

    def exchange(self, leaf: int, job: Job) -> bool:
        """Take borrowed GPUs back from everywhere for the job and put together what that frees."""
        if not self.snapshot.settings.consolidate or job.gpus_per_task < 2:  # noqa: PLR2004  one GPU is never fragmented
            return False
        for mask, gpu_type in self.flavors(job):
            if gpu_type is None and self.tree.typed:
                continue
            need = self.need(job, mask, ())
            gpus = {gpu_type or "": need.tasks * need.size}
            claims = self.ledger.claims(leaf, gpus)
            if not claims or self._shortage(leaf, job, gpus):
                continue
            if not job.preemptible and self.own_queue(leaf).index not in claims:
                continue
            key = ("exchange", self.shape(leaf, job, Standing.OWN)[:-1], claims, gpu_type)
            if self.hopeless.get(key) == self.disruptions:
                continue
            givers = self._reclaim_givers(leaf, claims, mixed=False)
            if self._take_and_move(leaf, job, need, givers, claims, gpus):
                return True
            self.hopeless[key] = self.disruptions
        return False

    def _take_and_move(
        self, leaf: int, job: Job, need: Need, givers: Givers, claims: tuple[int, ...], gpus: dict[str, int]
    ) -> bool:
        loose = replace(need, tasks=need.tasks * need.size, size=1, per_node=None)
        accept = self._reclaim_check(leaf, job, gpus, claims, plain=True)
        victims = self.hunt.find(loose, givers, accept) if givers.levels else None
        # What a shrinking job leaves is only known when all who take from it are: it is no place to move to.
        if not victims or not all(taking.whole for taking in victims.values()):
            return False
        free = self.supply.soon.copy()
        for taking in victims.values():
            free.add(self.hunt.usable(taking))
        moves = self.moves(need, free, victims)
        if not moves:
            return False
        self._settle(leaf, job, need, givers, victims, moves)
        return True

    def _settle(self, leaf: int, job: Job, need: Need, givers: Givers, victims: Victims, moves: Moves) -> None:
        self.hunt.take(victims, givers)
        for victim, target in moves:
            self.hunt.move(victim, [target], soon=True)
        parts = self.promised_place(self.supply.soon, need, {})
        assert parts is not None, "victims and moves were checked to make room"  # noqa: S101
        idle = self.supply.take_soon(parts)
        self.ledger.start(leaf, job, self.nodes.by_type(parts))
        self.promises.append(
            Promise(
                leaf=leaf, job=job, need=need, reason=Reason.RECLAIM_GUARANTEE, accept=lambda _victims: False,
                victims=victims, moves=written_moves(self, moves, job.id), parts=parts, idle=idle,
            )
        )  # fmt: skip
        self.disruptions += len(victims) + len(moves)
        self.reasons[job.id] = Reason.RECLAIMING
