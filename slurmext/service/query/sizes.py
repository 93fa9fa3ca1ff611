"""Sizes: the request templates that everybody may name."""

from __future__ import annotations

from slurmext.service.query.context import Context
from slurmext.service.query.viewer import Answer, Question, Viewer


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
                "memory_per_gpu_mib": size.memory_mib,
                "time_min": size.time_min,
            }
            for name, size in sizes.items()
        ]
    }
