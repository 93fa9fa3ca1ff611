"""What models mean for a waiting job."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNeed:
    """What a waiting job's models mean for it: `why` it cannot start as it asked, and nodes that hold them."""

    why: str = ""
    warm: tuple[str, ...] = ()
