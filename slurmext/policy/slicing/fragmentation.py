"""How much of what is free on cut GPUs can be used, and for which profiles. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slurmext.model.slicing import WHOLE_MILLI, GpuUse, InstanceState, SlicedGpu
from slurmext.policy.slicing.kinds import CardState, Kind, kind_of

_HELD = frozenset({InstanceState.BUSY, InstanceState.RESERVED, InstanceState.FOREIGN, InstanceState.UNKNOWN})
_HUNDRED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Of a plain profile: how many fit now, and how many would if the free parts of its cards were together."""

    gpu_type: str
    profile: str
    fits: int
    joined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragmentation:
    """Of all cards in sliced use. `free_milli` is what nobody has, in thousandths of a GPU; `percent` is how much less
    fits than would if it were together, over all plain profiles, each weighted with its size: 0 is best.
    """

    gpus: int
    free_milli: int
    percent: float
    fits: tuple[Fit, ...]


def card_state(card: SlicedGpu, kind: Kind) -> CardState:
    """What of a cut card is taken; warm instances are free."""
    state = kind.empty
    for instance in card.instances:
        spot = kind.spot(instance.profile, instance.start)
        if spot is not None and instance.state in _HELD and not spot.mask & state.mask:
            state = kind.put(state, spot)
    return state


def free_milli(card: SlicedGpu) -> int:
    """The part of a card in sliced use that nobody has."""
    if card.use is GpuUse.SHARED:
        percent = sum(share.percent for share in card.shares) * WHOLE_MILLI // _HUNDRED
        memory = sum(share.memory_mib for share in card.shares) * WHOLE_MILLI // max(1, card.memory_mib)
        return max(0, WHOLE_MILLI - max(percent, memory))
    if card.use is not GpuUse.MIG or card.geometry is None:
        return 0
    kind = kind_of(card.geometry)
    return kind.free_milli(card_state(card, kind))


def fragmentation(cards: Iterable[SlicedGpu]) -> Fragmentation:
    """Of these cards."""
    sliced = [card for card in cards if card.use in {GpuUse.MIG, GpuUse.SHARED}]
    fits = _fits([card for card in sliced if card.use is GpuUse.MIG and card.geometry is not None])
    weights = {(fit.gpu_type, fit.profile): _size(sliced, fit) for fit in fits}
    whole = sum(fit.joined * weights[fit.gpu_type, fit.profile] for fit in fits)
    now = sum(min(fit.fits, fit.joined) * weights[fit.gpu_type, fit.profile] for fit in fits)
    percent = 0.0 if not whole else round((whole - now) * _HUNDRED / whole, 1)
    return Fragmentation(gpus=len(sliced), free_milli=sum(map(free_milli, sliced)), percent=percent, fits=fits)


def _fits(cards: Sequence[SlicedGpu]) -> tuple[Fit, ...]:
    found: dict[tuple[str, str], list[int]] = {}
    free: dict[tuple[str, str], list[int]] = {}
    for card in cards:
        assert card.geometry is not None  # noqa: S101  as the caller chose them
        kind = kind_of(card.geometry)
        state = card_state(card, kind)
        units, slices = kind.free_units(state), kind.slices - state.compute
        for number, profile in enumerate(kind.profiles):
            if profile.automatic:
                key = card.gpu_type, profile.name
                found.setdefault(key, []).append(kind.count(state, number))
                sums = free.setdefault(key, [0, 0, profile.memory_units, profile.compute_slices, 0])
                sums[0] += units
                sums[1] += slices
                sums[4] += kind.count(kind.empty, number)
    return tuple(
        Fit(gpu_type=key[0], profile=key[1], fits=sum(counts), joined=_joined(free[key]))
        for key, counts in found.items()
    )


def _joined(sums: Sequence[int]) -> int:
    units, slices, unit_size, slice_size, most = sums
    return min(units // max(1, unit_size), slices // max(1, slice_size), most)


def _size(cards: Sequence[SlicedGpu], fit: Fit) -> int:
    for card in cards:
        profile = card.geometry.profile(fit.profile) if card.geometry and card.gpu_type == fit.gpu_type else None
        if profile is not None:
            return profile.memory_units
    return 1
