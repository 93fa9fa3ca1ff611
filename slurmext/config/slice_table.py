"""The table of what GPUs can be cut into, for job_submit.lua: a request nobody could ever meet is refused there."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from slurmext.model.slicing import Profile, SlicedGpu


def slices_tsv(cards: Collection[SlicedGpu], unheard: int = 0) -> str:
    """The lines, with tabs between fields. `unheard` nodes have GPUs that nobody has described yet.

    * `card`, Slurm's type, MiB: GPUs that parts can be had of
    * `nodes`, how many, the GPUs each of them has (`h100=4,a30=2`; `?`: not known)
    * `profile`, name, type, MiB, compute slices, how many a GPU holds; one line for each size of a name
    """
    lines = sorted({f"card\t{card.gpu_type}\t{card.memory_mib}" for card in cards})
    nodes: dict[str, Counter[str]] = {}
    sizes: dict[tuple[str, str, int, int], Profile] = {}
    for card in cards:
        nodes.setdefault(card.node, Counter())[card.gpu_type] += 1
        for profile in card.geometry.profiles if card.geometry else ():
            sizes.setdefault((profile.name, card.gpu_type, profile.memory_mib, profile.compute_slices), profile)
    alike = Counter(",".join(f"{kind}={count}" for kind, count in sorted(node.items())) for node in nodes.values())
    lines += [f"nodes\t{count}\t{kinds}" for kinds, count in sorted(alike.items())]
    lines += [f"nodes\t{unheard}\t?"] if unheard else []
    for key in sorted(sizes, key=lambda key: (key[1], sizes[key].memory_units, key[3], key[0])):
        lines.append("\t".join(("profile", *map(str, key), str(sizes[key].most))))
    return "".join(f"{line}\n" for line in lines)
