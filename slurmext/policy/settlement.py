"""The plan as a whole: promises that later ones made cheaper, and everything written down."""

from __future__ import annotations

from slurmext.model.plan import Evict, EvictAction, Reason
from slurmext.policy.exchange import Exchange
from slurmext.policy.herd import Victims, freed_inside
from slurmext.policy.round import Promise
from slurmext.policy.supply import FreeIndex, NodePart
from slurmext.policy.victims import Taking, lost_seconds, shrunk


class Settlement(Exchange):
    """Settles what the steps promised."""

    def drop_spare_victims(self, *, ask_again: bool) -> bool:
        """Let off victims whose beneficiary fits into what later victims leave over. True when there were any.

        Whoever was asked first may have told a small job to go before somebody else needed a whole gang to leave.
        Who only waits for what victims leave over must not keep a spare victim in the plan: with `ask_again` such
        waits are broken when somebody is let off, and the caller asks those jobs anew.
        """
        waits = [p for p in self.promises if ask_again and self._waits_for_leftovers(p)]
        if not waits and all(s <= n for s, n in zip(self.supply.soon.free, self.supply.now.free, strict=True)):
            return False
        before = self.promises
        for promise in waits:
            self._break(promise)
        self.promises = [promise for promise in before if promise not in waits] if waits else before
        dropped = [self._let_off(promise) for promise in self.promises if promise.victims]
        if any(dropped):
            self.unfit.clear()
            self.hopeless.clear()
            self.reasons |= {promise.job.id: Reason.NO_FREE_GPUS for promise in waits}
            return True
        for promise in waits:
            promise.idle = self.supply.take_soon(promise.parts)
            self.ledger.start(promise.leaf, promise.job, self.nodes.by_type(promise.parts))
        self.promises = before
        return False

    def _waits_for_leftovers(self, promise: Promise) -> bool:
        evicting = promise.reason is Reason.WAITING_NEAR_END and self.reasons[promise.job.id] is Reason.RECLAIMING
        return not promise.victims and not promise.moves and not evicting

    def _break(self, promise: Promise) -> None:
        self.supply.break_promise(promise.parts, promise.idle)
        self.ledger.stop(promise.leaf, promise.job, self.nodes.by_type(promise.parts))

    def _let_off(self, promise: Promise) -> bool:
        before = promise.victims
        for job_id, taking in sorted(before.items(), key=lambda item: (item[1].cost, item[0]), reverse=True):
            smaller = {other: kept for other, kept in promise.victims.items() if other != job_id}
            if self._does_without(promise, taking, None, smaller):
                continue
            while not taking.whole and taking.tasks > 1:
                fewer = self.hunt.one_task_less(taking)
                if not self._does_without(promise, taking, fewer, {**smaller, job_id: fewer}):
                    break
                taking = fewer  # noqa: PLW2901
        return promise.victims is not before

    def _does_without(self, promise: Promise, taking: Taking, instead: Taking | None, smaller: Victims) -> bool:
        """Let `taking` off (or take `instead`) if everybody who was promised GPUs still gets them; else False."""
        # Where GPUs are kept idle a victim may be needed for the count alone, which `accept` does not see.
        if self.tree.keeps and any(freed_inside(smaller, queue) < gpus for queue, gpus in promise.need.inside):
            return False
        moving = [
            promise,
            *(other for other in self.promises if other is not promise and self._may_be_placed_anew(other, taking)),
        ]
        scratch = self.supply.soon.copy()
        for other in moving:
            scratch.add(other.parts)
        back = dict(taking.parts)
        for index, gpus in () if instead is None else instead.parts:
            back[index] = back.get(index, 0) - gpus
        back = {index: gpus for index, gpus in back.items() if self.nodes.usable >> index & 1}
        if any(scratch.free[index] < gpus for index, gpus in back.items()):
            return False
        scratch.add(back.items(), sign=-1)
        # Whoever is placed first may take the only room of another: the other order is worth a try.
        for order in (moving, moving[::-1]):
            places = self._places(order, scratch.copy(), promise, smaller)
            if places is not None:
                moving = order
                break
        else:
            return False
        by_type = self.nodes.by_type(promise.parts)
        self.ledger.stop(promise.leaf, promise.job, by_type)
        for other in moving:
            self.supply.break_promise(other.parts, other.idle)
        self.hunt.let_off(taking)
        if instead is not None:
            self.hunt.take_back(instead)
        for kept in smaller.values():  # `accept` takes the victims away itself
            self.ledger.stay(kept.victim.leaf, kept.victim.job, kept.by_type)
        accepted = promise.accept(smaller)
        for kept in smaller.values():
            self.ledger.leave(kept.victim.leaf, kept.victim.job, kept.by_type)
        if accepted:
            promise.victims = smaller
        else:
            if instead is not None:
                self.hunt.let_off(instead)
            self.hunt.take_back(taking)
        self.ledger.start(promise.leaf, promise.job, by_type)
        for other, parts in zip(moving, places, strict=True):
            other.parts = parts if accepted else other.parts
            other.idle = self.supply.take_soon(other.parts)
        return accepted

    def _may_be_placed_anew(self, promise: Promise, taking: Taking) -> bool:
        """Whether it may be placed anew: it takes nobody's GPUs, or it uses what this victim would have left."""
        if promise.moves or (promise.victims and self.tree.typed):
            return False
        left = {index for index, _ in taking.parts}
        return not promise.victims or any(index in left for index, _ in promise.parts)

    def _places(
        self, promises: list[Promise], free: FreeIndex, first: Promise, victims: Victims
    ) -> list[list[NodePart]] | None:
        """A place for each on what is `free` when `first` has only these victims; None when one has none."""
        places: list[list[NodePart]] = []
        for promise in promises:
            parts = self.promised_place(free, promise.need, victims if promise is first else promise.victims)
            if parts is None:
                return None
            places.append(parts)
            free.add(parts, sign=-1)
        return places

    def write_promises(self) -> None:
        """Put evictions and their fences into the plan."""
        self._drop_uncertain_waits()
        for promise in self.promises:
            self.keep(promise.job, promise.parts)
            self.move += promise.moves
            if not promise.victims and promise.reason in {Reason.RECLAIM_GUARANTEE, Reason.PREEMPT_PRIORITY}:
                self.reasons[promise.job.id] = Reason.WAITING_NEAR_END
            for job_id, taking in sorted(promise.victims.items()):
                victim = taking.victim.job
                self.evict.append(
                    Evict(
                        job=job_id,
                        action=EvictAction.REQUEUE if taking.whole else EvictAction.SHRINK,
                        beneficiary=promise.job.id,
                        reason=promise.reason,
                        tasks=taking.tasks,
                        lost_gpu_s=lost_seconds(victim, self.snapshot.now_s) * taking.gpus,
                        from_queue=victim.queue,
                        to_queue=promise.job.queue,
                    )
                )

    def _drop_uncertain_waits(self) -> None:
        """Nobody waits for leftovers of a shrinking job on a node that it may not leave after all."""
        taken: dict[str, list[tuple[Promise, Taking]]] = {}
        for promise in self.promises:
            for job_id, taking in promise.victims.items():
                if not taking.whole:
                    taken.setdefault(job_id, []).append((promise, taking))
        certain = self.supply.soon.free.copy()
        for shares in taken.values():
            job = shares[0][1].victim.job
            places = [{part.node: part.gpus for part in self.placement(promise.parts)} for promise, _ in shares]
            left = shrunk(job, zip((taking.tasks for _, taking in shares), places, strict=True))
            for index, gpus in (*shares[0][1].victim.parts, *((i, -gpus) for i, gpus in self.nodes.parts(left))):
                certain[index] += gpus
            for _, taking in shares:
                for index, gpus in taking.parts:
                    certain[index] -= gpus
        for promise in [p for p in self.promises if self._waits_for_leftovers(p)] if taken else ():
            if any(certain[index] < 0 for index, _ in promise.parts):
                self._break(promise)
                self.promises.remove(promise)
                self.reasons[promise.job.id] = Reason.NO_FREE_GPUS
                for index, gpus in promise.parts:
                    certain[index] += gpus

    def waits_for_gpus(self) -> set[str]:
        """Jobs that GPUs are promised to."""
        return (
            {promise.job.id for promise in self.promises}
            | {fence.beneficiary for fence in self.fence}
            | {job_id for job_id, reason in self.reasons.items() if reason is Reason.WAITING_NEAR_END}
        )
