"""Which nodes are close to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """By node the leaf switch that it is behind, and the NVLink domain that its GPUs are in; none for most clusters."""

    racks: Mapping[str, str] = field(default_factory=dict[str, str])
    domains: Mapping[str, str] = field(default_factory=dict[str, str])
