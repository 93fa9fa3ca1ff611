"""Whether what is to be reserved can be made: the agent's own look, whatever the controller believes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurmext.agent.slices.maker import Miss
from slurmext.agent.slices.records import Piece, Stage
from slurmext.errors import GpuDriverError
from slurmext.model.slicing import GpuUse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from slurmext.adapters.tcp.orders import ReserveSlices, SliceItem
    from slurmext.agent.slices.journal import Book
    from slurmext.agent.slices.maker import Maker
    from slurmext.agent.slices.records import Reservation
    from slurmext.model.mig import GpuCard
    from slurmext.model.slicing import Profile
    from slurmext.ports import SliceDriver

_WHOLE_PCT = 100
_LEAVING = frozenset({Stage.RESERVED, Stage.FREEING})
"""Nothing of such a reservation runs: it may be one that the controller has given up a moment ago."""
_HOLDING = frozenset({Stage.RESERVED, Stage.MAKING, Stage.LIVE, Stage.FREEING})


class Leaving(Miss):
    """What is in the way may be gone in a moment."""


def check(order: ReserveSlices, *, book: Book, maker: Maker, driver: SliceDriver) -> None:
    """Raises Miss, Leaving if it may soon be otherwise, with the first reason why these slices cannot be had here."""
    others = [each for each in book.reservations() if each.stage in _HOLDING and each.reservation != order.reservation]
    for number, item in enumerate(order.items):
        card = maker.card(item.gpu)
        _check_use(item, card, book)
        before = order.items[:number]
        if item.is_mig:
            _check_place(item, card, others, before)
            _check_foreign(item, card, book, driver)
        else:
            _check_share(item, card, others, before)


def _check_use(item: SliceItem, card: GpuCard, book: Book) -> None:
    use = book.use(item.gpu).use
    wanted = GpuUse.MIG if item.is_mig else GpuUse.SHARED
    if use is not wanted:
        raise Miss(f"GPU {card.minor} is in {use} use, not {wanted}")


def profile_of(item: SliceItem, card: GpuCard) -> Profile:
    """The profile as this card has it. Raises Miss."""
    profile = card.geometry.profile(item.profile or "") if card.geometry else None
    if profile is None:
        names = ", ".join(each.name for each in card.geometry.profiles) if card.geometry else "none"
        raise Miss(f"GPU {card.minor} ({card.name}) has no profile {item.profile}; it has {names}")
    if item.profile_id not in {None, profile.profile_id} or item.start not in profile.starts:
        raise Miss(f"GPU {card.minor}: {item.profile} cannot start at {item.start}")
    return profile


def _check_place(item: SliceItem, card: GpuCard, others: Iterable[Reservation], before: Iterable[SliceItem]) -> None:
    wanted = _units(item, profile_of(item, card))
    compute = profile_of(item, card).compute_slices
    taken = [(each, f"job {other.job}", Leaving if other.stage in _LEAVING else Miss) for other in others
             for each in other.items]  # fmt: skip
    for each, who, miss in [*taken, *((each, "this job itself", Miss) for each in before)]:
        if each.gpu == item.gpu and each.is_mig:
            profile = profile_of(each, card)
            compute += profile.compute_slices
            if not wanted.isdisjoint(_units(each, profile)):
                raise miss(f"{item.profile} at {item.start} of GPU {card.minor}: the place belongs to {who}")
    if card.geometry is not None and compute > card.geometry.compute_slices:
        raise _miss(item, others)(f"{item.profile} on GPU {card.minor}: no compute slices are left")


def _check_foreign(item: SliceItem, card: GpuCard, book: Book, driver: SliceDriver) -> None:
    """Instances that are not ours are in the way for as long as somebody else keeps them."""
    # Before and after: others make instances and destroy them meanwhile, and what they destroy was ours.
    ours = _ours(item.gpu, book)
    try:
        instances = driver.instances(item.gpu)
    except GpuDriverError as error:
        raise Miss(f"GPU {card.minor}: {error}") from error
    ours |= _ours(item.gpu, book)
    wanted = _units(item, profile_of(item, card))
    for instance in instances:
        profile = card.geometry.profile(instance.profile) if card.geometry else None
        size = profile.memory_units if profile else 1
        foreign = (instance.start, instance.profile) not in ours
        if foreign and not wanted.isdisjoint(range(instance.start, instance.start + size)):
            raise Miss(f"GPU {card.minor} has a {instance.profile} at {instance.start} that slurmext did not make")


def _ours(gpu: str, book: Book) -> set[tuple[int, str]]:
    return {(made.start, made.profile) for made in book.made(gpu=gpu) if made.piece is not Piece.CREATING}


def _miss(item: SliceItem, others: Iterable[Reservation]) -> type[Miss]:
    """What a GPU that is full is: a miss, or one that may not be any more in a moment."""
    here = (other for other in others if any(each.gpu == item.gpu for each in other.items))
    return Leaving if any(other.stage in _LEAVING for other in here) else Miss


def _check_share(item: SliceItem, card: GpuCard, others: Iterable[Reservation], before: Iterable[SliceItem]) -> None:
    items = [item, *before, *(each for other in others for each in other.items)]
    here = [each for each in items if each.gpu == item.gpu and not each.is_mig]
    percent, memory_mib = (sum(getattr(each, name) or 0 for each in here) for name in ("share_pct", "memory_mib"))
    if percent > _WHOLE_PCT or memory_mib > card.memory_mib:
        raise _miss(item, others)(
            f"GPU {card.minor} would be shared out beyond what it has: {percent} % and {memory_mib} of "
            f"{card.memory_mib} MiB"
        )


def _units(item: SliceItem, profile: Profile) -> frozenset[int]:
    start = item.start or 0
    return frozenset(range(start, start + profile.memory_units))
