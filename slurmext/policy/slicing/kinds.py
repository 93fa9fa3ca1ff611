"""What a card can be cut into: its legal places as bit masks over memory units, worked out once per geometry.

Legal is: a start that NVML lists, units that nobody has, compute slices not used up, and no more of a profile than the
card has engines for. Counting units alone would admit what the hardware refuses, such as an eighth 1g of seven.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from slurmext.model.slicing import Geometry, Profile

GPU_PARTS = 8400
"""A GPU counts so many parts: sevenths, eighths, twelfths and hundredths of it are whole numbers of them."""

MEDIA = "+me"
ALL_MEDIA = "+me.all"
NO_MEDIA = "-me"


class CardState(NamedTuple):
    """What of a card is taken: memory units as a mask, compute slices, and how many of each special profile."""

    mask: int
    compute: int
    special: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A place for one instance: a profile by number, its first unit, and the units as a mask."""

    profile: int
    start: int
    mask: int


class Kind:
    """One geometry. Profiles are numbered as NVML reports them."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.units, self.slices = geometry.memory_units, geometry.compute_slices
        self.profiles: tuple[Profile, ...] = geometry.profiles
        self.number: Mapping[str, int] = {profile.name: n for n, profile in enumerate(self.profiles)}
        self.spots = tuple(
            tuple(
                Spot(profile=n, start=start, mask=(1 << profile.memory_units) - 1 << start)
                for start in sorted(profile.starts)
                if start + profile.memory_units <= self.units
            )
            for n, profile in enumerate(self.profiles)
        )
        self.parts = tuple(_parts(profile, geometry) for profile in self.profiles)
        full = CardState(0, 0, ())
        self._slots: dict[int, int] = {}
        for n, profile in enumerate(self.profiles):
            if not profile.automatic or profile.most < self._packed(full, n):
                self._slots[n] = len(self._slots)
        self.empty = CardState(0, 0, (0,) * len(self._slots))
        self._one_media = [n for n in self._slots if MEDIA in self.profiles[n].name]
        self._options: dict[tuple[CardState, int], tuple[Spot, ...]] = {}
        self._counts: dict[tuple[CardState, int], int] = {}

    def spot(self, name: str, start: int) -> Spot | None:
        """The place of that profile and start; None when the card knows no such profile or start."""
        number = self.number.get(name)
        if number is None:
            return None
        return next((spot for spot in self.spots[number] if spot.start == start), None)

    def options(self, state: CardState, profile: int) -> tuple[Spot, ...]:
        """Every legal place for one more of the profile."""
        key = state, profile
        found = self._options.get(key)
        if found is None:
            legal = self.allows(state, profile)
            found = tuple(spot for spot in self.spots[profile] if not spot.mask & state.mask) if legal else ()
            self._options[key] = found
        return found

    def count(self, state: CardState, profile: int) -> int:
        """How many of the profile fit at once on what is left."""
        key = state, profile
        found = self._counts.get(key)
        if found is None:
            found = self._counts[key] = self._count(state, profile)
        return found

    def put(self, state: CardState, spot: Spot) -> CardState:
        """The state with one more instance."""
        special, slot = state.special, self._slots.get(spot.profile)
        if slot is not None:
            special = (*special[:slot], special[slot] + 1, *special[slot + 1 :])
        return CardState(state.mask | spot.mask, state.compute + self.profiles[spot.profile].compute_slices, special)

    def free_units(self, state: CardState) -> int:
        """Memory units that nobody has."""
        return self.units - state.mask.bit_count()

    def free_parts(self, state: CardState) -> int:
        """The part of a GPU that is free: the smaller of memory units and compute slices, in parts."""
        memory = self.free_units(state) * GPU_PARTS // self.units
        return min(memory, max(0, self.slices - state.compute) * GPU_PARTS // self.slices)

    def free_milli(self, state: CardState) -> int:
        """The same in thousandths of a GPU."""
        return self.free_parts(state) * 1000 // GPU_PARTS

    def allows(self, state: CardState, profile: int) -> bool:
        """Whether compute slices and engines are left for one more, wherever its memory would be."""
        asked = self.profiles[profile]
        if state.compute + asked.compute_slices > self.slices:
            return False
        slot = self._slots.get(profile)
        if slot is not None and state.special[slot] >= asked.most:
            return False
        return not self._slots or self._media_free(state, profile)

    def _media_free(self, state: CardState, profile: int) -> bool:
        """Media engines are shared out by name: one instance has the one of `+me`, or with `+me.all` all of them."""
        name = self.profiles[profile].name
        present = [n for n, slot in self._slots.items() if state.special[slot]]
        if MEDIA in name and any(n in self._one_media for n in present):
            return False
        has_all = any(self.profiles[n].name.endswith(ALL_MEDIA) for n in present)
        if name.endswith(ALL_MEDIA):
            without = [n for n in present if self.profiles[n].name.endswith(NO_MEDIA)]
            units = sum(state.special[self._slots[n]] * self.profiles[n].memory_units for n in without)
            return state.mask.bit_count() == units
        return not has_all or name.endswith(NO_MEDIA)

    def _count(self, state: CardState, profile: int) -> int:
        if not self.allows(state, profile):
            return 0
        found = self._packed(state, profile)
        slot = self._slots.get(profile)
        if slot is not None:
            found = min(found, self.profiles[profile].most - state.special[slot])
            if MEDIA in self.profiles[profile].name:
                found = min(found, 1)
        return found

    def _packed(self, state: CardState, profile: int) -> int:
        """Places of one size from the left: nothing else packs more of them, they are all equally long."""
        mask, count = state.mask, 0
        for spot in self.spots[profile]:
            if not spot.mask & mask:
                mask |= spot.mask
                count += 1
        slices = self.profiles[profile].compute_slices
        return min(count, (self.slices - state.compute) // slices) if slices else count


def _parts(profile: Profile, geometry: Geometry) -> int:
    """What the profile counts against quotas: its larger share of memory and of compute, rounded up."""
    compute = Fraction(profile.compute_slices, geometry.compute_slices)
    memory = Fraction(profile.memory_units, geometry.memory_units)
    share = max(compute, memory) * GPU_PARTS
    return min(GPU_PARTS, -(-share.numerator // share.denominator))


@lru_cache(maxsize=256)
def kind_of(geometry: Geometry) -> Kind:
    """The kind of that geometry; a cluster has a few."""
    return Kind(geometry)
