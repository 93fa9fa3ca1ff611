"""Host lists as users write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet  # pyright: ignore[reportMissingTypeStubs]


def hosts(text: str) -> tuple[str, ...]:
    """Node names of a host list such as `n[1-3,7]`, in order."""
    if not text:
        return ()
    return tuple(cast("Iterable[str]", NodeSet(text, resolver=RESOLVER_NOGROUP)))
