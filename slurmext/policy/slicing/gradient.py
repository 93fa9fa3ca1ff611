"""Fragmentation: how much of what is free could not be used by the requests that come, and how a placement changes it.

The measure is that of Weng et al., "Beware of Fragmentation" (USENIX ATC'23): over the mix of requests, the free part
of a node's GPUs that a request cannot use, all of it where the node cannot hold the request at all. For a card that is
cut, what cannot be used is what is left over when as many of the request's profile as fit are put there.

That sees CPUs run short only when it is too late. So GPUs count as lost, too, as far as the CPUs and the memory left on
the node could not feed them at the rate at which requests ask for both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from slurmext.model.slicing import GpuUse
from slurmext.policy.slicing.cards import FULL_PCT, Card, Host, SharedState
from slurmext.policy.slicing.kinds import GPU_PARTS, CardState, Kind
from slurmext.policy.slicing.needs import CardType, ShareSize, Wish

MOST_GROUPS = 48
"""So many kinds of request are told apart; rarer ones do not change what is best."""


@dataclass(slots=True, eq=False)
class Group:
    """Requests that want the same of the GPUs. `beside` is (CPUs, memory in MiB, weight) of those who want it."""

    wish: Wish
    per_node: int
    parts: int
    """What it counts in parts of a GPU, all its slices on a node together."""
    weight: float = 0.0
    beside: list[tuple[int, int, float]] = field(default_factory=list[tuple[int, int, float]])


@dataclass(frozen=True, slots=True)
class CardWorth:
    """Of one card: free parts, and for each group what of it is of no use, and how many requests fit. `mean` is
    what is of no use on average over the groups.
    """

    free: float
    lost: tuple[float, ...]
    fits: tuple[int, ...]
    mean: float


class Mix:
    """What requests come, and what a card or a node in some state is worth to them."""

    def __init__(self, groups: Iterable[Group]) -> None:
        chosen = sorted(groups, key=lambda group: -group.weight)[:MOST_GROUPS]
        total = sum(group.weight for group in chosen) or 1.0
        self.groups = chosen
        self.weights = tuple(group.weight / total for group in chosen)
        self._beside = [[(cpus, mem, weight / total) for cpus, mem, weight in group.beside] for group in chosen]
        gpus = sum(group.parts * group.weight for group in chosen) or 1.0
        self._cpus_per_part = sum(c * w for group in chosen for c, _, w in group.beside) / gpus
        self._mib_per_part = sum(m * w for group in chosen for _, m, w in group.beside) / gpus
        self._cards: dict[tuple[object, ...], int] = {}
        self._worth: list[CardWorth] = []
        self._several = tuple(n for n, group in enumerate(chosen) if group.per_node > 1)
        self._lacking: dict[tuple[int | None, int | None], tuple[tuple[int, float], ...]] = {}
        self._nodes: dict[tuple[int | None, int | None, tuple[int, ...]], float] = {}

    def number(self, card: Card, use: GpuUse | None, mig: CardState, shared: SharedState) -> int:
        """The number of what the card would be worth in that use and state; states of equal worth may share it."""
        key = card.card_type.number, use, card.strange, shared if use is GpuUse.SHARED else mig
        found = self._cards.get(key)
        if found is None:
            if use is GpuUse.SHARED:
                worth = self._shared_worth(card.card_type, shared)
            else:
                worth = self._cut_worth(card.card_type, card.kind if use is GpuUse.MIG else None, mig)
            found = self._cards[key] = len(self._worth)
            self._worth.append(worth)
        return found

    def now(self, card: Card) -> int:
        """The number of what the card is worth as it is."""
        return self.number(card, None if card.closing else card.use, card.mig, card.shared)

    def host(self, host: Host, numbers: Iterable[int], cpus: int = 0, memory_mib: int = 0) -> float:
        """Parts of GPUs that are lost on a node with cards of these worths, and so much less beside them."""
        left_cpus = None if host.cpus is None else host.cpus - cpus
        left_mib = None if host.memory_mib is None else host.memory_mib - memory_mib
        key = left_cpus, left_mib, tuple(sorted(numbers))
        found = self._nodes.get(key)
        if found is None:
            found = self._nodes[key] = self._lost(left_cpus, left_mib, [self._worth[n] for n in key[2]])
        return found

    def mean(self, number: int) -> float:
        """Parts lost on a card of this worth, the node left out of account."""
        return self._worth[number].mean

    def free(self, numbers: Iterable[int]) -> float:
        """Parts free on cards of these worths."""
        return sum(self._worth[number].free for number in numbers)

    def _lost(self, cpus: int | None, memory_mib: int | None, cards: Sequence[CardWorth]) -> float:
        free = sum(card.free for card in cards)
        if not free:
            return 0.0
        lost = self._starved(free, cpus, memory_mib) + sum(card.mean for card in cards)
        # Where a card has no room for a request all that is free there is lost already. The same goes for all cards
        # of the node where what it needs beside is not there, or where it needs more slices than the node has.
        short = self._short(cpus, memory_mib)
        for n, weight in short:
            lost += weight * (free - sum(card.lost[n] for card in cards))
        for n in self._several:
            if sum(card.fits[n] for card in cards) < self.groups[n].per_node:
                weight = self.weights[n] - dict(short).get(n, 0.0)
                lost += weight * (free - sum(card.lost[n] for card in cards))
        return lost

    def _short(self, cpus: int | None, memory_mib: int | None) -> tuple[tuple[int, float], ...]:
        """Groups that find too little beside the GPUs, with the weight of their requests that do."""
        found = self._lacking.get((cpus, memory_mib))
        if found is None:
            rows: list[tuple[int, float]] = []
            for n, beside in enumerate(self._beside):
                weight = sum(
                    w
                    for c, m, w in beside
                    if (cpus is not None and c > cpus) or (memory_mib is not None and m > memory_mib)
                )
                if weight:
                    rows.append((n, weight))
            found = self._lacking[cpus, memory_mib] = tuple(rows)
        return found

    def _worth_of(self, free: float, lost: Sequence[float], fits: Sequence[int]) -> CardWorth:
        mean = sum(weight * part for weight, part in zip(self.weights, lost, strict=True))
        return CardWorth(free, tuple(lost), tuple(fits), mean)

    def _starved(self, free: float, cpus: int | None, memory_mib: int | None) -> float:
        """Free parts that the CPUs and the memory left would not do for."""
        fed = free
        if cpus is not None and self._cpus_per_part:
            fed = min(fed, cpus / self._cpus_per_part)
        if memory_mib is not None and self._mib_per_part:
            fed = min(fed, memory_mib / self._mib_per_part)
        return free - max(0.0, fed)

    def _shared_worth(self, card_type: CardType, shared: SharedState) -> CardWorth:
        percent = FULL_PCT - shared.percent
        memory = card_type.memory_mib - shared.memory_mib
        free = max(0.0, min(percent * GPU_PARTS / FULL_PCT, memory * GPU_PARTS / (card_type.memory_mib or 1)))
        fits = tuple(shares_in(percent, memory, group.wish.shares.get(card_type.number)) for group in self.groups)
        return self._worth_of(free, [0.0 if count else free for count in fits], fits)

    def _cut_worth(self, card_type: CardType, kind: Kind | None, mig: CardState) -> CardWorth:
        if kind is None:
            none = len(self.groups)
            return self._worth_of(0.0, (0.0,) * none, (0,) * none)
        unit = GPU_PARTS / kind.units
        free = kind.free_units(mig) * unit
        lost: list[float] = []
        fits: list[int] = []
        for group in self.groups:
            profile = group.wish.profiles.get(card_type.number)
            count = 0 if profile is None else kind.count(mig, profile)
            used = 0 if profile is None else count * kind.profiles[profile].memory_units
            fits.append(count)
            lost.append(free - used * unit)
        return self._worth_of(free, lost, fits)


def shares_in(percent: int, memory_mib: int, size: ShareSize | None) -> int:
    """How many shares of a size fit into so much."""
    if size is None or percent < size.percent or memory_mib < size.memory_mib:
        return 0
    by_memory = memory_mib // size.memory_mib if size.memory_mib else FULL_PCT
    return min(percent // size.percent, by_memory) if size.percent else by_memory
