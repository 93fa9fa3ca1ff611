"""Model weights: what a model consists of, where it lies on a node, who sends it to whom, and how a job maps it.

    import slurmext.staging
    weights = slurmext.staging.load("org/model@rev")        # name -> tensor, without copying

`manifest`, `importer`, `tree`, `safetensors`, `names`: a model's files and chunks. `store`: what a node holds.
`plan`: the multicast plan (pure). `transport`: the port to what moves bytes. `order`: what agents are told and say.
`loader`: what a job uses; needs no daemon, and nothing but NumPy or torch. Imports of the package only its errors.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # A job that maps weights needs neither the transfer's modules nor xxhash.
    if name == "load":
        from slurmext.staging.loader import load  # noqa: PLC0415

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
