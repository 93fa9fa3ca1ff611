"""Model weights: what a model consists of, where it lies on a node, who sends it to whom, and how a job maps it.

    import slurmext.staging
    weights = slurmext.staging.load("org/model@rev")                    # name -> tensor, without copying
    for name, tensor in slurmext.staging.stream("org/model@rev"): ...   # in forward order, before all of it is here
    directory = slurmext.staging.path("org/model@rev")                  # for programs that read a directory

`loader` (with `places`, `sources`, `arriving`, `readers`, `tensors`, `shards`, `forward`, `device`): what a job uses;
needs no daemon, and nothing but NumPy or torch. `frameworks`: transformers.
`manifest`, `importer`, `tree`, `safetensors`, `names`: a model's files and chunks. `store`: what a node holds.
`plan`: the multicast plan (pure). `transport`: the port to what moves bytes. `order`: what agents are told and say.
Imports of the package only its errors.
"""

from __future__ import annotations

from typing import Any

__all__ = ["TENSOR_PARALLEL", "Shard", "load", "path", "stream"]


def __getattr__(name: str) -> Any:
    # A job that maps weights needs neither the transfer's modules nor xxhash.
    if name in {"load", "path", "stream"}:
        from slurmext.staging import loader  # noqa: PLC0415

        return getattr(loader, name)
    if name in {"Shard", "TENSOR_PARALLEL"}:
        from slurmext.staging import shards  # noqa: PLC0415

        return getattr(shards, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
