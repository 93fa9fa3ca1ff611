"""Where models are kept on a node, and how far one is."""

from __future__ import annotations

from enum import StrEnum


class TierKind(StrEnum):
    """Where a tier keeps models."""

    MEMORY = "memory"
    DISK = "disk"


class StageState(StrEnum):
    """How far a model on a node is."""

    WAITING = "waiting"
    RECEIVING = "receiving"
    COMPLETE = "complete"
    FAILED = "failed"
