"""One rank's part of a model under tensor parallelism: which tensors are divided along which dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final

from slurmext.staging.errors import StagingError

TENSOR_PARALLEL: Final[Mapping[str, int]] = MappingProxyType({
    **{f"*.{part}.{what}": 0 for part in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "w1", "w3")
       for what in ("weight", "bias")},
    **{f"*.{part}.weight": 1 for part in ("o_proj", "down_proj", "w2")},
})  # fmt: skip
"""Names with wildcards -> dimension, as models of the Llama kind are divided. What matches none is whole in each rank.

Add to it what your program divides as well: `{**TENSOR_PARALLEL, "*.embed_tokens.weight": 0}`.
"""
_DIMENSIONS: Final = {"colwise": 0, "rowwise": 1}


class BadShard(StagingError):
    """A rank that is none, or a tensor that cannot be divided evenly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The part of `rank` of `world`; `rules` are names with wildcards -> dimension, the first that matches counts."""

    rank: int
    world: int
    rules: Mapping[str, int] = field(default_factory=lambda: TENSOR_PARALLEL)

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise BadShard(f"rank {self.rank} of {self.world}: ranks count from 0")

    def cut(self, name: str, shape: Sequence[int]) -> tuple[int, int, int] | None:
        """(dimension, begin, end) of this rank's part; None of a tensor that is whole in each rank. Raises BadShard."""
        dimension = next((dim for pattern, dim in self.rules.items() if fnmatchcase(name, pattern)), None)
        if dimension is None or self.world == 1:
            return None
        if not -len(shape) <= dimension < len(shape):
            raise BadShard(f"tensor {name!r} of shape {list(shape)} has no dimension {dimension}")
        dimension %= len(shape)
        if shape[dimension] % self.world:
            raise BadShard(
                f"tensor {name!r} of shape {list(shape)} cannot be divided by {self.world} along dimension {dimension}:"
                " take another number of ranks, or leave it whole in the rules"
            )
        part = shape[dimension] // self.world
        return dimension, self.rank * part, (self.rank + 1) * part


def rules_of(plan: Mapping[str, str]) -> dict[str, int]:
    """The rules of a plan as transformers' models have it (`config.base_model_tp_plan`, `model.tp_plan`)."""
    rules: dict[str, int] = {}
    for name, style in plan.items():
        dimension = next((dim for word, dim in _DIMENSIONS.items() if style.startswith(word)), None)
        if dimension is None:
            continue
        rules[f"*{name}.weight"] = dimension
        if dimension == 0:
            rules[f"*{name}.bias"] = 0
    return rules
