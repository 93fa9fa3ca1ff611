"""The plan as a whole: promises that later ones made cheaper, and everything written down."""

from __future__ import annotations

from slurmext.model.plan import Evict, EvictAction, Reason
from slurmext.policy.eviction import Eviction
from slurmext.policy.herd import Victims, freed_inside
from slurmext.policy.round import Promise
from slurmext.policy.supply import FreeIndex, NodePart
from slurmext.policy.victims import Taking, lost_seconds


class Settlement(Eviction):
    """Settles what the steps promised."""

    def drop_spare_victims(self) -> bool:
        """Let off victims whose beneficiary fits into what later victims leave over. True when there were any.

        Whoever was asked first may have told a small job to go before somebody else needed a whole gang to leave.
        """
        if all(later <= now for later, now in zip(self.supply.soon.free, self.supply.now.free, strict=True)):
            return False
        dropped = [self._let_off(promise) for promise in self.promises if promise.victims]
        if any(dropped):
            self.unfit.clear()
            self.hopeless.clear()
        return any(dropped)

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
        moving = [promise, *(other for other in self.promises if not other.victims and not other.moves)]
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
            places = self._places(order, scratch.copy(), smaller)
            if places is not None:
                moving = order
                break
        else:
            return False
        by_type = self.nodes.by_type(promise.parts)
        self.ledger.stop(promise.leaf, promise.job.user, by_type)
        for other in moving:
            self.supply.break_promise(other.parts, other.idle)
        self.hunt.let_off(taking)
        if instead is not None:
            self.hunt.take_back(instead)
        for kept in smaller.values():  # `accept` takes the victims away itself
            self.ledger.stay(kept.victim.leaf, kept.victim.job.user, kept.by_type)
        accepted = promise.accept(smaller)
        for kept in smaller.values():
            self.ledger.leave(kept.victim.leaf, kept.victim.job.user, kept.by_type)
        if accepted:
            promise.victims = smaller
        else:
            if instead is not None:
                self.hunt.let_off(instead)
            self.hunt.take_back(taking)
        self.ledger.start(promise.leaf, promise.job.user, by_type)
        for other, parts in zip(moving, places, strict=True):
            other.parts = parts if accepted else other.parts
            other.idle = self.supply.take_soon(other.parts)
        return accepted

    def _places(self, promises: list[Promise], free: FreeIndex, victims: Victims) -> list[list[NodePart]] | None:
        """A place for each on what is `free` when these victims of theirs are gone; None when one has none."""
        places: list[list[NodePart]] = []
        for promise in promises:
            parts = self.promised_place(free, promise.need, victims if promise.victims else {})
            if parts is None:
                return None
            places.append(parts)
            free.add(parts, sign=-1)
        return places

    def write_promises(self) -> None:
        """Put evictions and their fences into the plan."""
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

    def waits_for_gpus(self) -> set[str]:
        """Jobs that GPUs are promised to."""
        return (
            {promise.job.id for promise in self.promises}
            | {fence.beneficiary for fence in self.fence}
            | {job_id for job_id, reason in self.reasons.items() if reason is Reason.WAITING_NEAR_END}
        )
