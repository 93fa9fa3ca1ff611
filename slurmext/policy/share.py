"""The fair share of every queue: what the tournament of `order` leads to, in GPUs that need not be whole.

At every level of the tree what the parent gets is handed to its children in three steps:

1. what a child wants within its guarantee, less what must stay idle in it because it is never lent;
2. the rest of what it wants within its guarantee, where queues below it may lend to each other after all;
3. beyond guarantees by weight, queues of higher priority first, and weight 0 what is left of their priority.

Nobody gets more than it wants, and it wants no more than its jobs, its max and its fence let it use. Where a step has
too little for all, everybody's part grows in step with its weight (in steps 1 and 2: its guarantee) until it has
enough: the weighted max-min share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from slurmext.policy.tree import ROOT, QueueNode, QueueTree

_TINY = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Stake:
    """What a queue brings to its level and gets there, in GPUs. `wants` counts what it uses and what waits in it, as
    far as its limits allow; `kept` stay idle for it whoever asks; `past` is what it borrowed lately, as it counts now.
    """

    path: str
    guaranteed: int
    kept: int
    wants: int
    weight: float
    priority: int
    past: float = 0.0
    share: float = 0.0


def fair_shares(
    tree: QueueTree,
    demand: Mapping[int, int],
    gpus: int,
    *,
    gpu_type: str | None = None,
    headroom: int = 0,
    limits: Mapping[int, int] | None = None,
    past: Mapping[str, float] | None = None,
) -> tuple[Stake, ...]:
    """The stake of every queue of the tree, by index, when `gpus` are there to be shared.

    `demand` is what each leaf's jobs use and ask for; `limits` is the most that users' limits let a queue use. With
    `gpu_type` the numbers are those of that type. Borrowers together leave `headroom` GPUs idle. `past` is what
    queues borrowed lately, by path, in GPUs as they count now.
    """
    stakes = _wants(tree, demand, gpu_type, limits or {}, past or {})
    shares = [0.0] * len(tree.nodes)
    shares[ROOT] = float(max(0, gpus - stakes[ROOT].kept))
    for node in tree.nodes:
        if node.children:
            spare = headroom if node.index == ROOT else 0
            given = _handed_out(shares[node.index], [stakes[child] for child in node.children], spare)
            for child, share in zip(node.children, given, strict=True):
                shares[child] = share
    return tuple(replace(stake, share=share) for stake, share in zip(stakes, shares, strict=True))


def _wants(
    tree: QueueTree,
    demand: Mapping[int, int],
    gpu_type: str | None,
    limits: Mapping[int, int],
    past: Mapping[str, float],
) -> list[Stake]:
    """Stakes without shares: from the leaves up, because a queue wants what its children want."""
    stakes: list[Stake] = [_stake(node, gpu_type, 0, 0, 0.0) for node in tree.nodes]
    for node in sorted(tree.nodes, key=lambda node: -len(node.lineage)):
        below = [stakes[child] for child in node.children]
        wants = sum(stake.wants for stake in below) if below else demand.get(node.index, 0)
        caps = [limits.get(node.index), node.max if gpu_type is None else node.type_max.get(gpu_type)]
        if not node.may_borrow:
            caps.append(_guaranteed(node, gpu_type))
        wants = min([wants, *(cap for cap in caps if cap is not None)])
        own = node.kept if gpu_type is None else node.type_kept.get(gpu_type, 0)
        kept = max(0, own - wants, sum(stake.kept for stake in below))
        stakes[node.index] = _stake(node, gpu_type, wants, kept, past.get(node.path, 0.0))
    return stakes


def _stake(node: QueueNode, gpu_type: str | None, wants: int, kept: int, past: float) -> Stake:
    return Stake(
        path=node.path,
        guaranteed=_guaranteed(node, gpu_type),
        kept=kept,
        wants=wants,
        weight=node.weight,
        priority=node.priority,
        past=past,
    )


def _guaranteed(node: QueueNode, gpu_type: str | None) -> int:
    return node.guaranteed if gpu_type is None else node.type_guaranteed.get(gpu_type, 0)


def _handed_out(gpus: float, stakes: Sequence[Stake], headroom: int) -> list[float]:
    """Each stake's share of `gpus` at one level."""
    sure = [float(min(stake.wants, max(0, stake.guaranteed - stake.kept))) for stake in stakes]
    owed = [float(min(stake.wants, stake.guaranteed)) for stake in stakes]
    entitled = [max(1.0, stake.guaranteed) for stake in stakes]
    shares = filled(gpus, sure, entitled)
    more = filled(gpus - sum(shares), [o - s for o, s in zip(owed, shares, strict=True)], entitled)
    shares = [share + extra for share, extra in zip(shares, more, strict=True)]
    left = max(0.0, gpus - sum(shares) - headroom)
    for tier in sorted({stake.priority for stake in stakes}, reverse=True):
        for weightless in (False, True):
            chosen = [
                number
                for number, stake in enumerate(stakes)
                if stake.priority == tier and (stake.weight <= 0) is weightless
            ]
            wanted = [stakes[number].wants - shares[number] for number in chosen]
            weights = [1.0 if weightless else stakes[number].weight for number in chosen]
            bottoms = [stakes[number].past / weight for number, weight in zip(chosen, weights, strict=True)]
            given = filled(left, wanted, weights, bottoms)
            for number, extra in zip(chosen, given, strict=True):
                shares[number] += extra
            left -= sum(given)
    return shares


def filled(
    amount: float, wanted: Sequence[float], weights: Sequence[float], bottoms: Sequence[float] | None = None
) -> list[float]:
    """`amount` poured over vessels of these capacities, all at the same level per weight until they are full.

    The sum is the smaller of `amount` and everything wanted. Weights are positive. A vessel's floor stands at its
    `bottoms` (as the level, per weight): who had much already gets nothing until the others have come as far.
    """
    floor = [0.0] * len(wanted) if bottoms is None else list(bottoms)
    given = [0.0] * len(wanted)
    left = max(0.0, amount)
    real = [number for number, want in enumerate(wanted) if want > _TINY]
    steps = sorted({floor[n] for n in real} | {floor[n] + wanted[n] / weights[n] for n in real})
    for low, high in pairwise(steps):
        rising = [n for n in real if floor[n] <= low and floor[n] + wanted[n] / weights[n] >= high]
        total = sum(weights[n] for n in rising)
        rise = min(high - low, left / total) if total else 0.0
        for number in rising:
            given[number] += rise * weights[number]
        left -= rise * total
        if left <= _TINY:
            break
    return [min(got, want) for got, want in zip(given, wanted, strict=True)]
