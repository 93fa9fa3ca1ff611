"""Sizes: the request templates that everybody may name."""

from __future__ import annotations

from slurmext.config.sizes import SizeDocument
from slurmext.service.query.context import Context
from slurmext.service.query.viewer import Answer, Question, Viewer


def _slice(size: SizeDocument) -> str | None:
    """The part of a GPU, as one would ask for it; None: whole GPUs."""
    if size.gpu_slice or size.gpu_share or not size.sliced:
        return size.gpu_slice or size.gpu_share
    return " and ".join(filter(None, (size.gpu_mem and f"{size.gpu_mem} memory", size.gpu_compute)))


def listed(context: Context, _viewer: Viewer, _asked: Question) -> Answer:
    """Every size of the policy in force, in its order."""
    found = context.site_policy()
    sizes = {} if found is None else found[1].document.sizes
    return {
        "sizes": [
            {
                "name": name,
                **size.model_dump(mode="json"),
                "gpus": size.nodes * size.gpus_per_node,
                "slice": _slice(size),
                "memory_per_gpu_mib": size.memory_mib,
                "time_min": size.time_min,
            }
            for name, size in sizes.items()
        ]
    }
