"""GPUs of real kinds for slice planning, without any driver: `gpus("n1", "h100", 4)`."""

from __future__ import annotations

from slurmext.model.slicing import Geometry, GpuUse, Profile, SlicedGpu
from slurmext.testing.nvml.cards import Card, card_of


def geometry_of(card: Card) -> Geometry | None:
    """What such a card can be cut into, as NVML would report it; None for one that cannot."""
    if not card.mig:
        return None
    return Geometry(
        memory_units=card.memory_units,
        compute_slices=card.compute_slices,
        profiles=tuple(
            Profile(
                name=row.name,
                profile_id=row.id,
                memory_units=row.units,
                compute_slices=row.slices,
                memory_mib=row.memory_mib,
                sm=row.sm,
                starts=row.starts,
                most=row.most,
                automatic=row.name.endswith("gb"),
            )
            for row in card.profiles
        ),
    )


def gpus(node: str, gpu_type: str, count: int, use: GpuUse = GpuUse.MIG) -> tuple[SlicedGpu, ...]:
    """`count` empty GPUs of a node, with UUIDs such as `n1-0`."""
    card = card_of(gpu_type)
    cut = geometry_of(card)
    return tuple(
        SlicedGpu(
            node=node,
            uuid=f"{node}-{minor}",
            minor=minor,
            gpu_type=gpu_type,
            use=use,
            memory_mib=card.memory_mib,
            sm=card.sm,
            geometry=cut,
        )
        for minor in range(count)
    )
