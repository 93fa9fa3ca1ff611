"""The next larger size after a job ran out of GPU memory. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from slurmext.model.slice_state import SliceRecord
from slurmext.model.slicing import Profile, SlicedGpu, SliceNeed


def grown(need: SliceNeed, outgrown: SliceRecord, cards: Sequence[SlicedGpu]) -> SliceNeed:
    """What the job asks for next: the plain profile with the least more memory on the same type of card, or twice the
    memory of its share (no more than the card has). What is the largest already stays.
    """
    alike = [card for card in cards if card.uuid == outgrown.gpu] or [
        card for card in cards if card.gpu_type == outgrown.gpu_type
    ]
    base = replace(need, profile=outgrown.profile, share_pct=outgrown.share_pct, compute_pct=None,
                   memory_mib=outgrown.memory_mib if outgrown.profile is None else None)  # fmt: skip
    if not alike:
        return base
    card = alike[0]
    if outgrown.profile is None:
        memory = min(card.memory_mib or 0, 2 * (outgrown.memory_mib or 0))
        return replace(base, memory_mib=max(memory, outgrown.memory_mib or 0))
    larger = next_larger(outgrown.profile, card)
    return base if larger is None else replace(base, profile=larger.name)


def next_larger(name: str, card: SlicedGpu) -> Profile | None:
    """The plain profile of the card with the least more memory (of those the least compute); None: there is none."""
    geometry = card.geometry
    now = None if geometry is None else geometry.profile(name)
    if geometry is None or now is None:
        return None
    larger = [
        profile
        for profile in geometry.profiles
        if profile.automatic
        and (profile.memory_mib, profile.memory_units) > (now.memory_mib, now.memory_units)
        and profile.memory_mib > now.memory_mib
    ]
    return min(larger, key=lambda profile: (profile.memory_mib, profile.compute_slices), default=None)
