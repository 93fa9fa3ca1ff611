"""What the controller is told of this node's GPUs: cards, what they can be cut into, who sits where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slurmext.agent.slices.records import Piece, Stage
from slurmext.errors import GpuDriverError
from slurmext.model.slicing import GpuUse

if TYPE_CHECKING:
    from slurmext.agent.slices.journal import Book
    from slurmext.agent.slices.maker import Maker
    from slurmext.agent.slices.records import Made
    from slurmext.model.mig import GpuCard, MigInstance
    from slurmext.ports import SliceDriver


def inventory(book: Book, maker: Maker, driver: SliceDriver) -> list[dict[str, Any]]:
    """Every GPU that answers. Raises GpuDriverError when the driver does not."""
    found = []
    for card in maker.cards().values():
        instances: tuple[MigInstance, ...] | None = ()
        if card.mig:
            try:
                instances = driver.instances(card.uuid)
            except GpuDriverError:
                instances = None
        found.append(_described(card, instances, book))
    return found


def _described(card: GpuCard, instances: tuple[MigInstance, ...] | None, book: Book) -> dict[str, Any]:
    listed = [_instance(each, card, book) for each in instances or ()]
    use = book.use(card.uuid).use
    if instances is None or (use is GpuUse.WHOLE and listed):
        use = GpuUse.UNKNOWN  # cut by somebody else, or nobody knows
    geometry = card.geometry
    return {
        "uuid": card.uuid,
        "minor": card.minor,
        "index": card.index,
        "name": card.name,
        "memory_mib": card.memory_mib,
        "sm": card.sm,
        "mig_capable": card.mig is not None,
        "mig": card.mig,
        "use": use.value,
        "geometry": [
            {"name": each.name, "id": each.profile_id, "size": each.memory_units, "compute": each.compute_slices,
             "memory_mib": each.memory_mib, "sm": each.sm, "starts": list(each.starts), "max": each.most}
            for each in (geometry.profiles if geometry else ())
        ],
        "instances": listed,
        "shares": [
            {"job_id": holder.job_id, "reservation": holder.reservation, "share_pct": share.share_pct,
             "memory_mib": share.memory_mib}
            for share in book.shares(gpu=card.uuid)
            if (holder := book.reservation(share.reservation)) is not None
        ],
    }  # fmt: skip


def _instance(instance: MigInstance, card: GpuCard, book: Book) -> dict[str, Any]:
    made = book.at(card.uuid, instance.start)
    state, job_id, reservation = _state(instance, made, book)
    return {
        "profile": instance.profile,
        "start": instance.start,
        "gi": instance.gi,
        "ci": instance.ci,
        "uuid": instance.uuid,
        "job_id": job_id,
        "reservation": reservation,
        "state": state,
    }


def _state(instance: MigInstance, made: Made | None, book: Book) -> tuple[str, int | None, str]:
    if made is None or not made.is_at(instance) or (made.uuid and instance.uuid and made.uuid != instance.uuid):
        return "foreign", None, ""
    if made.piece is Piece.WARM:
        return ("warm" if instance.uuid else "broken"), None, ""
    holder = book.reservation(made.reservation)
    whole = made.piece is Piece.BUSY and instance.uuid and holder is not None
    busy = whole and holder is not None and holder.stage in {Stage.MAKING, Stage.LIVE, Stage.FREEING}
    return ("busy" if busy else "broken"), holder.job_id if holder else None, made.reservation
