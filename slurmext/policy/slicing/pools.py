"""GPUs between whole and sliced use: how many the policy lets be cut now, which are taken, which go back.

A GPU is taken when a waiting job needs it, and goes back when it is empty and a whole-GPU job waits for it, when it has
been empty for long, or when the pool has become smaller. One that was just taken is not given back at once, and one
that a waiting job of slices needs is not given back at all, so GPUs do not wander to and fro.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from slurmext.model.slicing import GpuUse, ReturnGpu, SlicedGpu, SlicePool, SliceSnapshot, TakeGpu
from slurmext.policy.slicing.cards import Card, Yard
from slurmext.policy.slicing.finder import Site

SLICED = frozenset({GpuUse.MIG, GpuUse.SHARED})


class Pools:
    """How many GPUs of each type are in sliced use or on their way there, and how many may be."""

    def __init__(self, snapshot: SliceSnapshot, site: Site) -> None:
        self._snapshot, self._site = snapshot, site
        self._yard: Yard = site.yard
        self._rules = {pool.gpu_type: pool for pool in snapshot.settings.pools}
        self.count: Counter[str] = Counter()
        turning = {take.gpu for take in snapshot.taking if take.gpu}
        for gpu in snapshot.gpus:
            if gpu.use in SLICED or gpu.uuid in turning:
                self.count[gpu.gpu_type] += 1
        for take in snapshot.taking:
            if not take.gpu:
                self.count[take.gpu_type] += 1
        self.take: list[TakeGpu] = []
        self._close_excess()
        self._close_full()

    def rule(self, gpu_type: str) -> SlicePool:
        """What the policy says of the type."""
        return self._rules.get(gpu_type) or self._rules.get(None) or SlicePool()

    def room(self, gpu_type: str) -> int | None:
        """How many more GPUs of the type may be taken; None: any number."""
        most = self.rule(gpu_type).maximum
        return None if most is None else most - self.count[gpu_type]

    def taken(self, card: Card, use: GpuUse, job: str) -> None:
        """A job is the reason that the card changes its use."""
        gpu_type = card.card_type.gpu_type
        node = self._yard.hosts[card.node].name
        self.take.append(TakeGpu(node=node, gpu_type=gpu_type, use=use, gpu=card.uuid, job=job))
        if card.gpu is None:
            self.count[gpu_type] += 1
            self._close_full()
        card.use, card.stage = use, 1

    def _close_full(self) -> None:
        for card_type in self._yard.card_types:
            room = self.room(card_type.gpu_type)
            if room is not None and room <= 0:
                self._site.closed.add(card_type.number)

    def _close_excess(self) -> None:
        """Of a pool that became smaller the emptiest cards take nobody new."""
        for gpu_type in sorted(self.count):
            room = self.room(gpu_type)
            if room is None or room >= 0:
                continue
            cards = [card for card in self._cards() if card.card_type.gpu_type == gpu_type]
            cards.sort(key=lambda card: (len(card.tenants), card.node, card.position))
            for card in cards[:-room]:
                card.closing = True
                self._site.changed(card.node)

    def _cards(self) -> Iterator[Card]:
        return (card for host in self._yard.hosts for card in host.cards if card.gpu is not None)

    def fill(self) -> None:
        """Take idle GPUs up to the minimum, nodes with fewest idle ones first so that whole nodes stay whole."""
        for gpu_type in sorted({card_type.gpu_type for card_type in self._yard.card_types}):
            rule = self.rule(gpu_type)
            idle = [
                card
                for host in self._yard.hosts
                for card in host.cards
                if card.use is None
                and card.card_type.gpu_type == gpu_type
                and (rule.use is not GpuUse.MIG or card.kind is not None)
            ]
            alone = Counter(card.node for card in idle)
            idle.sort(key=lambda card: (alone[card.node], card.node, card.position))
            for card in idle[: max(0, rule.minimum - self.count[gpu_type])]:
                self.taken(card, rule.use, "")

    def give_back(self, waiting: set[str]) -> Iterator[ReturnGpu]:
        """Empty GPUs that go back to whole use. `waiting` are types that jobs of slices still wait for."""
        wanted = Counter(self._snapshot.wanted_gpus)
        settings, now_s = self._snapshot.settings, self._snapshot.now_s
        left = self.count.copy()
        for card in sorted(self._cards(), key=lambda card: (not card.closing, card.node, card.position)):
            gpu, gpu_type = card.gpu, card.card_type.gpu_type
            if gpu is None or not card.empty or card.stage > 0:
                continue
            rule = self.rule(gpu_type)
            if card.closing:
                why = f"job {card.owed} is guaranteed whole GPUs" if card.owed else "the pool has become smaller"
                yield self._given(gpu, why)
                left[gpu_type] -= 1
            elif left[gpu_type] <= rule.minimum or gpu_type in waiting:
                continue
            elif (asked := next((kind for kind in (gpu_type, "") if wanted[kind] > 0), None)) is not None:
                if now_s - gpu.since_s >= settings.keep_for_s:
                    wanted[asked] -= 1
                    left[gpu_type] -= 1
                    yield self._given(gpu, "a job waits for a whole GPU")
            elif gpu.empty_s is not None and now_s - gpu.empty_s >= settings.empty_for_s:
                left[gpu_type] -= 1
                yield self._given(gpu, f"no slice of it was used for {now_s - gpu.empty_s:.0f} s")

    @staticmethod
    def _given(gpu: SlicedGpu, why: str) -> ReturnGpu:
        return ReturnGpu(node=gpu.node, gpu=gpu.uuid, gpu_type=gpu.gpu_type, why=why)
