"""What requests ask of whoever has models moved; without a daemon there is nobody."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from slurmext.errors import SlurmextError
from slurmext.staging.kinds import TierKind
from slurmext.staging.names import ModelKey

_REFUSED = "models on nodes are slurmextd's business, and it does not run here: 'systemctl start slurmextd'"


class ModelDesk(Protocol):
    """Has models brought to nodes and taken from there. What is returned leaves out nodes whose agents are away."""

    def nodes(self) -> Collection[str]:
        """Nodes whose agents are connected."""
        ...

    def rooms(self, tier: TierKind) -> Mapping[str, int]:
        """Bytes that models may take in this tier, by node, where that is known."""
        ...

    def wanted(self, key: ModelKey, nodes: Collection[str], tier: TierKind, by: str) -> None:
        """These nodes shall have the model, as soon as it can be brought there."""
        ...

    def evict(self, key: ModelKey, nodes: Collection[str], tier: TierKind) -> Collection[str]:
        """Have it removed there, unless a job there uses it; returns the nodes that were told."""
        ...

    def verify(self, key: ModelKey, nodes: Collection[str]) -> Collection[str]:
        """Have every byte of it checked there; what is bad is not complete any more. Returns the nodes told."""
        ...

    def changed(self) -> None:
        """The registry changed: what was known of it is out of date."""
        ...


class NoDesk:
    """Where no daemon runs."""

    def nodes(self) -> Collection[str]:
        """None."""
        return ()

    def rooms(self, tier: TierKind) -> Mapping[str, int]:
        """Not known."""
        del tier
        return {}

    def wanted(self, *_asked: object, **_more: object) -> None:
        """Refused."""
        raise SlurmextError(_REFUSED)

    def evict(self, *_asked: object, **_more: object) -> Collection[str]:
        """Refused."""
        raise SlurmextError(_REFUSED)

    def verify(self, *_asked: object, **_more: object) -> Collection[str]:
        """Refused."""
        raise SlurmextError(_REFUSED)

    def changed(self) -> None:
        """Nobody to tell."""
