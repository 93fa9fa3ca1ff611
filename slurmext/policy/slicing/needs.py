"""What a job's wish means on each type of card: a MIG profile, an MPS share, either, or a refusal that says why.

A need (`memory_mib`, `compute_pct`) becomes the smallest plain profile that has both. A profile named by the user is
taken as it is; where boards disagree about what the name means, nobody guesses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from slurmext.model.plan import Reason
from slurmext.model.slicing import GpuUse, Profile, SliceNeed
from slurmext.policy.slicing.kinds import GPU_PARTS, Kind

SAME_SIZE = 0.03
"""Drivers round a profile's memory differently by this much; more is another size."""

HUNDRED = 100


@dataclass(frozen=True, slots=True, eq=False)
class CardType:
    """Cards that are alike. `kind` None: cannot be cut (or nobody knows how)."""

    number: int
    gpu_type: str
    memory_mib: int
    sm: int
    kind: Kind | None


@dataclass(frozen=True, slots=True)
class ShareSize:
    """An MPS share: percent of the SMs, memory, and what it counts against quotas."""

    percent: int
    memory_mib: int
    parts: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Wish:
    """What a job may get: by number of the card type a profile, or a share. `uses` are tried in this order."""

    need: SliceNeed
    uses: tuple[GpuUse, ...]
    profiles: Mapping[int, int] = field(default_factory=dict[int, int])
    shares: Mapping[int, ShareSize] = field(default_factory=dict[int, ShareSize])
    why: Mapping[int, str] = field(default_factory=dict[int, str])

    def parts(self, card_types: Sequence[CardType]) -> int:
        """The most that one slice may count against quotas, in parts of a GPU."""
        mig = [kind.parts[p] for t, p in self.profiles.items() if (kind := card_types[t].kind) is not None]
        return max([*mig, *(share.parts for share in self.shares.values())], default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A wish that no card could ever meet."""

    reason: Reason
    detail: str


def wish(
    need: SliceNeed,
    card_types: Sequence[CardType],
    *,
    types: Sequence[str] = (),
    choice: GpuUse | None = None,
    prefer: GpuUse = GpuUse.MIG,
) -> Wish | Refusal:
    """What `need` means on the cards there are, as far as `types` and `choice` allow."""
    usable = [card for card in card_types if not types or card.gpu_type in types]
    if not usable:
        named = ", ".join(sorted({card.gpu_type for card in card_types})) or "none"
        return Refusal(reason=Reason.SLICE_UNKNOWN, detail=f"no GPU of type {' or '.join(types)}; there are: {named}")
    if need.profile is not None:
        return _by_name(need, need.profile, usable)
    if need.share_pct is not None:
        return _share(need, need.share_pct, usable)
    return _by_need(need, usable, choice, prefer)


def _by_name(need: SliceNeed, name: str, usable: Sequence[CardType]) -> Wish | Refusal:
    found: list[tuple[CardType, Profile]] = []
    for card in usable:
        profile = None if card.kind is None else card.kind.geometry.profile(name)
        if profile is not None:
            found.append((card, profile))
    if not found:
        return Refusal(reason=Reason.SLICE_UNKNOWN, detail=f"no GPU has a profile {name}; {_catalogue(usable)}")
    first = found[0][1]
    other = next(((card, profile) for card, profile in found if not _same_size(first, profile)), None)
    if other is not None:
        both = " and ".join(f"{_size(p)} on {card.gpu_type}" for card, p in (found[0], other))
        remedy = "name the type with --gpu-types, or ask with --gpu-mem and --gpu-compute"
        return Refusal(reason=Reason.SLICE_AMBIGUOUS, detail=f"{name} is {both}; {remedy}")
    profiles = {card.number: card.kind.number[name] for card, _ in found if card.kind is not None}
    return Wish(need=need, uses=(GpuUse.MIG,), profiles=profiles)


def _same_size(one: Profile, other: Profile) -> bool:
    if one.compute_slices != other.compute_slices:
        return False
    most = max(one.memory_mib, other.memory_mib)
    return (
        min(one.memory_mib, other.memory_mib) == 0 or most - min(one.memory_mib, other.memory_mib) <= most * SAME_SIZE
    )


def _size(profile: Profile) -> str:
    memory = f"{profile.memory_mib / 1024:.2f} GiB, " if profile.memory_mib else ""
    return f"{memory}{profile.compute_slices} compute slice{'s' if profile.compute_slices > 1 else ''}"


def _catalogue(usable: Sequence[CardType]) -> str:
    """What exists, for whoever asked for what does not."""
    lines = {
        card.gpu_type: ", ".join(profile.name for profile in card.kind.profiles)
        for card in usable
        if card.kind is not None
    }
    return "; ".join(f"{gpu_type} has {names}" for gpu_type, names in sorted(lines.items())) or "none can be cut"


def _share(need: SliceNeed, percent: int, usable: Sequence[CardType]) -> Wish | Refusal:
    if not 0 < percent <= HUNDRED:
        return Refusal(reason=Reason.SLICE_TOO_LARGE, detail=f"a share is 1 to 100 % of a GPU, not {percent} %")
    shares: dict[int, ShareSize] = {}
    for card in usable:
        memory = card.memory_mib * percent // HUNDRED if need.memory_mib is None else need.memory_mib
        if card.memory_mib and memory <= card.memory_mib:
            shares[card.number] = _share_size(card, percent, memory)
    if shares:
        return Wish(need=need, uses=(GpuUse.SHARED,), shares=shares)
    return _too_much_memory(need.memory_mib or 0, usable)


def _share_size(card: CardType, percent: int, memory_mib: int) -> ShareSize:
    memory = -(-memory_mib * GPU_PARTS // card.memory_mib)
    return ShareSize(percent, memory_mib, min(GPU_PARTS, max(percent * GPU_PARTS // HUNDRED, memory)))


def _too_much_memory(memory_mib: int, usable: Sequence[CardType]) -> Refusal:
    most = max((card.memory_mib for card in usable), default=0)
    return Refusal(
        reason=Reason.SLICE_TOO_LARGE,
        detail=f"{memory_mib} MiB is more than the {most} MiB of the largest GPU it may use",
    )


def _by_need(need: SliceNeed, usable: Sequence[CardType], choice: GpuUse | None, prefer: GpuUse) -> Wish | Refusal:
    profiles: dict[int, int] = {}
    shares: dict[int, ShareSize] = {}
    why: dict[int, str] = {}
    for card in usable:
        if choice is not GpuUse.SHARED and card.kind is not None:
            best = _smallest(need, card, card.kind)
            if best is not None:
                profiles[card.number] = best
                why[card.number] = _explained(need, card, card.kind.profiles[best])
        share = _share_for(need, card)
        if choice is not GpuUse.MIG and share is not None:
            shares[card.number] = share
    uses = tuple(use for use, have in ((GpuUse.MIG, profiles), (GpuUse.SHARED, shares)) if have)
    if not uses:
        if need.memory_mib is not None and all(need.memory_mib > card.memory_mib for card in usable):
            return _too_much_memory(need.memory_mib, usable)
        cut = "be cut into a profile" if choice is GpuUse.MIG else "give a share"
        return Refusal(
            reason=Reason.SLICE_TOO_LARGE, detail=f"no GPU can {cut} with {asked(need)}; {_catalogue(usable)}"
        )
    ordered = tuple(sorted(uses, key=lambda use: use is not prefer))
    return Wish(need=need, uses=ordered, profiles=profiles, shares=shares, why=why)


def compute_pct(profile: Profile, card: CardType, kind: Kind) -> float:
    """Percent of the card's SMs in the profile."""
    if profile.sm and card.sm:
        return profile.sm * HUNDRED / card.sm
    return profile.compute_slices * HUNDRED / kind.slices


def _smallest(need: SliceNeed, card: CardType, kind: Kind) -> int | None:
    """The plain profile that has what is needed and counts least; None when none has."""
    enough = [
        number
        for number, profile in enumerate(kind.profiles)
        if profile.automatic
        and _memory(profile, card, kind) >= (need.memory_mib or 0)
        and compute_pct(profile, card, kind) >= (need.compute_pct or 0)
    ]

    def cost(number: int) -> tuple[int, int, int, str]:
        profile = kind.profiles[number]
        return kind.parts[number], profile.memory_units, profile.compute_slices, profile.name

    return min(enough, key=cost, default=None)


def _memory(profile: Profile, card: CardType, kind: Kind) -> int:
    return profile.memory_mib or card.memory_mib * profile.memory_units // kind.units


def _share_for(need: SliceNeed, card: CardType) -> ShareSize | None:
    if not card.memory_mib or (need.memory_mib or 0) > card.memory_mib:
        return None
    percent, memory = need.compute_pct, need.memory_mib
    if percent is None:
        percent = max(1, -(-(memory or 0) * HUNDRED // card.memory_mib))
    if memory is None:
        memory = card.memory_mib * percent // HUNDRED
    return _share_size(card, percent, memory) if 0 < percent <= HUNDRED else None


def asked(need: SliceNeed) -> str:
    """The need in words: `18432 MiB and 30 %`."""
    if need.profile is not None:
        return need.profile
    percent = need.share_pct if need.share_pct is not None else need.compute_pct
    parts = [f"{need.memory_mib} MiB" if need.memory_mib else "", f"{percent} % of a GPU" if percent else ""]
    return " and ".join(part for part in parts if part) or "any slice"


def _explained(need: SliceNeed, card: CardType, profile: Profile) -> str:
    size = f"{profile.memory_mib} MiB, " if profile.memory_mib else ""
    percent = f"{profile.sm * HUNDRED // card.sm} % of the SMs" if card.sm and profile.sm else _size(profile)
    return f"{asked(need)}: {profile.name} on {card.gpu_type} ({size}{percent}) is the smallest profile that has it"
