"""The table of what GPUs can be cut into, for job_submit.lua: a request nobody could ever meet is refused there."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from slurmext.model.slicing import Profile, SlicedGpu


def slices_tsv(cards: Collection[SlicedGpu]) -> str:
    """The lines, with tabs between fields.

    * `card`, Slurm's type, MiB: GPUs that parts can be had of
    * `profile`, name, type, MiB, compute slices, how many the best node holds; one line for each size of a name
    """
    lines = sorted({f"card\t{card.gpu_type}\t{card.memory_mib}" for card in cards})
    sizes: dict[tuple[str, str, int, int], Counter[str]] = {}
    order: dict[tuple[str, str, int, int], Profile] = {}
    for card in cards:
        for profile in card.geometry.profiles if card.geometry else ():
            key = profile.name, card.gpu_type, profile.memory_mib, profile.compute_slices
            sizes.setdefault(key, Counter())[card.node] += profile.most
            order.setdefault(key, profile)
    by_size = sorted(sizes, key=lambda key: (key[1], order[key].memory_units, key[3], key[0]))
    for key in by_size:
        lines.append("\t".join(("profile", *map(str, key), str(max(sizes[key].values())))))
    return "".join(f"{line}\n" for line in lines)
