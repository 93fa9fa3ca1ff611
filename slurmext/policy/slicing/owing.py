"""GPUs in sliced use that a whole-GPU job is guaranteed: taken back from slices that others borrowed.

Only for jobs for whom the plan of whole GPUs can do nothing, and before slices are asked: what is empty is given back
at once, and what borrowers have is reclaimed, the cheapest GPUs first, never below the pool's minimum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import merge

from slurmext.model.job import Job, JobState
from slurmext.model.plan import Reason
from slurmext.model.slicing import GpuUse
from slurmext.policy.round import Standing
from slurmext.policy.slicing.cards import Card, Host
from slurmext.policy.slicing.kinds import GPU_PARTS
from slurmext.policy.slicing.making_room import MOST_TRIES, MakingRoom
from slurmext.policy.slicing.quota import whole_in_parts

_Cost = Callable[[Card], "float | None"]


@dataclass(frozen=True, slots=True)
class _Slot:
    """Room for one task: the cards that must be cleared for it beside what is idle, and what that costs."""

    cost: float
    host: int
    number: int
    cards: tuple[Card, ...]


class Owing(MakingRoom):
    """Give whole GPUs back to those they are guaranteed to."""

    def owe(self) -> None:
        """See to every owed job, the oldest first."""
        owed = set(self.snapshot.owed)
        if not owed:
            return
        waiting = [job for job in self.snapshot.whole if job.id in owed and job.state is JobState.PENDING]
        self._returning = Counter((gpu.node, gpu.gpu_type) for gpu in self.snapshot.gpus if gpu.leaving)
        self._coming = self._returning.copy()
        for node in self.snapshot.nodes:
            self._coming.update({(node.name, gpu_type): count for gpu_type, count in node.idle_gpus.items()})
        for job in sorted(waiting, key=lambda job: (job.submitted_s, job.id)):
            self._owe_one(job)

    def _owe_one(self, job: Job) -> None:
        shadow = whole_in_parts(job)
        leaf = self.quotas.leaf(shadow)
        late = job.eligible_s is not None and job.eligible_s > self.snapshot.now_s
        if leaf is None or job.blocked is not None or late or job.gpus_per_task <= 0:
            return
        if self.quotas.delayed(leaf, shadow):
            return
        for gpu_type in job.types or sorted({card_type.gpu_type for card_type in self.yard.card_types}):
            gpus = {gpu_type: job.least_tasks * job.gpus_per_task * GPU_PARTS}
            if self.quotas.standing_on(leaf, shadow, gpu_type) > Standing.OWN:
                continue
            if self.quotas.refused(leaf, shadow, gpus) in {None, Reason.LENDING_LIMIT}:
                barred: set[str] = set()
                for _ in range(MOST_TRIES):
                    slots = self._slots(job, leaf, gpu_type, barred)
                    if slots is None:
                        break
                    if self._give(job, leaf, gpu_type, slots, barred):
                        self.quotas.promise(leaf, shadow, gpus)
                        return

    def _slots(self, job: Job, leaf: int, gpu_type: str, barred: set[str]) -> list[_Slot] | None:
        """The cheapest room for all the job's tasks; None when there is none."""
        claims = self.quotas.claims(leaf, {gpu_type: job.least_tasks * job.gpus_per_task * GPU_PARTS})
        price = self.reclaim_price(leaf, claims, barred)

        def cost(card: Card) -> float | None:
            total = 0.0
            for tenant in {tenant.job: tenant for tenant in card.tenants}.values():
                if tenant.hold:
                    return None
                if self.leaving.get(tenant.job, "") not in {None, job.id}:
                    one = price(tenant.job)
                    if one is None:
                        return None
                    total += one
            return total

        rows = [self._slots_on(number, host, job, gpu_type, cost) for number, host in enumerate(self.yard.hosts)]
        found: list[_Slot] = []
        for slot in merge(*rows, key=lambda slot: (slot.cost, slot.host, slot.number)):
            if len(found) == job.least_tasks:
                break
            found.append(slot)
        cards = sum(len(slot.cards) for slot in found)
        enough = len(found) == job.least_tasks
        return found if enough and self.pools.count[gpu_type] - cards >= self.pools.rule(gpu_type).minimum else None

    def _slots_on(self, number: int, host: Host, job: Job, gpu_type: str, cost: _Cost) -> list[_Slot]:
        """Room for tasks on one host, the cheapest first."""
        priced: list[tuple[float, int, Card]] = []
        for card in host.cards:
            sliced = card.gpu is not None and card.use in {GpuUse.MIG, GpuUse.SHARED} and card.stage == 0
            if sliced and card.card_type.gpu_type == gpu_type and not card.owed and not card.strange:
                one = cost(card)
                if one is not None:
                    priced.append((one, card.position, card))
        priced.sort(key=lambda row: row[:2])
        spare = self._coming[host.name, gpu_type]
        slots: list[_Slot] = []
        while job.tasks_per_node is None or len(slots) < job.tasks_per_node:
            of_spare = min(spare, job.gpus_per_task)
            needed = job.gpus_per_task - of_spare
            if needed > len(priced):
                break
            chosen, priced = priced[:needed], priced[needed:]
            spare -= of_spare
            slots.append(
                _Slot(sum(one for one, _, _ in chosen), number, len(slots), tuple(card for _, _, card in chosen))
            )
            if len(slots) >= job.least_tasks:
                break
        return slots

    def _give(self, job: Job, leaf: int, gpu_type: str, slots: Sequence[_Slot], barred: set[str]) -> bool:
        """Clear the cards; False, with who cannot go in `barred`, when some queue cannot give all of it."""
        cards = [card for slot in slots for card in slot.cards]
        gpus = {gpu_type: job.least_tasks * job.gpus_per_task * GPU_PARTS}
        claims = self.quotas.claims(leaf, gpus)
        victims = sorted({t.job for card in cards for t in card.tenants if t.job not in self.leaving})
        kept_back = self.take(leaf, claims, victims)
        if kept_back is not None:
            barred.add(kept_back)
            return False
        self.tell_to_go(victims, job.id, job.queue)
        for slot in slots:
            for card in (*slot.cards, *self._spared(slot, job, gpu_type)):
                card.closing, card.owed = True, job.id
                self.site.changed(card.node)
        return True

    def _spared(self, slot: _Slot, job: Job, gpu_type: str) -> list[Card]:
        """The idle GPUs that the slot counts on: no slice takes them meanwhile. What is on its way back comes first."""
        host = self.yard.hosts[slot.host]
        place = host.name, gpu_type
        needed = job.gpus_per_task - len(slot.cards)
        self._coming[place] -= needed
        of_leaving = min(needed, self._returning[place])
        self._returning[place] -= of_leaving
        idle = [card for card in host.cards if card.use is None and card.card_type.gpu_type == gpu_type]
        return [card for card in idle if not card.closing][: needed - of_leaving]
