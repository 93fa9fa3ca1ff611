"""A node as the planner sees it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NodeState(StrEnum):
    """Whether new work may go to the node. No rule acts on UNKNOWN."""

    UP = "up"
    DRAIN = "drain"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """`gpus` whole GPUs of one type."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  read by pydantic, no field

    name: str
    gpus: int
    gpu_type: str = "gpu"
    state: NodeState = NodeState.UP
    cpus: int | None = None
    memory_mib: int | None = None
    rack: str | None = None
    domain: str | None = None
