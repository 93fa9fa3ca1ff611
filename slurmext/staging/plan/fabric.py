"""Hosts and their links by direction, replicas, and the plan made of them. Rates are bits per second of payload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

STORAGE: Final = "(storage)"
"""The name under which shared storage is a source. No host has it: it has brackets."""
LEAST_SHARE: Final = 0.05
"""What a transfer may count on of a link that is full: TCP gives every flow something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host's network links, all its NICs together, each direction by itself.

    `tx_used_bps` and `rx_used_bps` are what flows now, other transfers' leases included; `tx_cap_bps` and `rx_cap_bps`
    what transfers may take at most (None: the link). Hosts of one `domain` reach each other over NVLink at `domain_bps`
    without using their NICs.
    """

    name: str
    tx_bps: float
    rx_bps: float
    tx_used_bps: float = 0.0
    rx_used_bps: float = 0.0
    tx_cap_bps: float | None = None
    rx_cap_bps: float | None = None
    rack: str = ""
    domain: str = ""
    domain_bps: float = 0.0

    @property
    def tx_free_bps(self) -> float:
        """What may be sent."""
        return _free(self.tx_bps, self.tx_used_bps, self.tx_cap_bps)

    @property
    def rx_free_bps(self) -> float:
        """What may be received."""
        return _free(self.rx_bps, self.rx_used_bps, self.rx_cap_bps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rack:
    """What may flow out of a rack and into it; racks that are not named are not limited."""

    name: str
    up_bps: float
    down_bps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A complete replica on a host, read at `read_bps` at most (None: as fast as the link)."""

    host: str
    read_bps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Shared storage that has the model: what one host reads at most."""

    read_bps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to go where. `held` is the part of the model (0..1) that targets have already, `current` who feeds them.

    Hosts that are not in `hosts` cannot be reached: neither planned for nor used.
    """

    size_bytes: int
    hosts: tuple[Host, ...]
    replicas: tuple[Replica, ...]
    targets: tuple[str, ...]
    storage: Storage | None = None
    racks: tuple[Rack, ...] = ()
    chunk_bytes: int = 512 * 1024
    held: Mapping[str, float] = field(default_factory=dict)
    current: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """A source of a target: which part (0..1) of the chunks it sends, and at which rate that is planned."""

    source: str
    share: float
    rate_bps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What a target does: its feeds (one, or several that are striped), and whom to turn to when one is lost.

    `depth` counts hops from a replica.
    """

    node: str
    feeds: tuple[Feed, ...]
    backups: tuple[str, ...]
    rate_bps: float
    depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a plan takes of a host's link in one direction (`tx` or `rx`)."""

    node: str
    direction: str
    rate_bps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MulticastPlan:
    """An assignment for every target that can be served, feeding ones first; the others, and why not."""

    assignments: tuple[Assignment, ...]
    unserved: Mapping[str, str]
    leases: tuple[Lease, ...]
    estimate_s: float


def _free(link_bps: float, used_bps: float, cap_bps: float | None) -> float:
    free = max(link_bps - used_bps, link_bps * LEAST_SHARE)
    return free if cap_bps is None else min(free, cap_bps)
