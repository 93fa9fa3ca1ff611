"""What agents say of their nodes: where they serve models, what their links carry, what they hold."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import cast

from slurmext.staging.errors import StagingError
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.names import ModelKey
from slurmext.staging.order import Progress, parse_progress

_MOST_MODELS = 1000
_LEAST_BPS = 1e3
_LONGEST = 253
Place = tuple[ModelKey, TierKind]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageHost:
    """A node that takes models. Rates are bits per second; `tx_bps` and `rx_bps` what flows now, all of it together.

    `address` is where its agent serves, `domain_address` where it does for nodes of its NVLink `domain` ("": the same),
    and `domain_bps` what those get from it beside the network link (0: nothing); `room` bytes taken and bytes there
    are, by tier.
    """

    node: str
    address: str
    link_bps: float
    tx_cap_bps: float | None = None
    storage_bps: float = 1e10
    domain: str = ""
    domain_bps: float = 0.0
    domain_address: str = ""
    tx_bps: float = 0.0
    rx_bps: float = 0.0
    room: Mapping[TierKind, tuple[int, int]] = field(default_factory=dict[TierKind, tuple[int, int]])
    models: Mapping[Place, Progress] = field(default_factory=dict[Place, Progress])


def host_of(node: str, came_from: str, said: Mapping[str, object]) -> StageHost | None:
    """What an agent said, checked; None when it is of no use."""
    port = _number(said.get("port"))
    if port is None or not 0 < port < 65536:  # noqa: PLR2004
        return None
    near = _text(said.get("domain_host"))
    cap = _number(said.get("tx_cap_bps"))
    return StageHost(
        node=node,
        address=_address(_text(said.get("host")) or came_from, port),
        link_bps=max(_LEAST_BPS, _number(said.get("link_bps")) or 1e10),
        tx_cap_bps=cap or None,
        storage_bps=max(_LEAST_BPS, _number(said.get("storage_bps")) or 1e10),
        domain=_text(said.get("domain")),
        domain_bps=_number(said.get("domain_bps")) or 0.0,
        domain_address=_address(near, port) if near else "",
        tx_bps=_number(said.get("tx_bps")) or 0.0,
        rx_bps=_number(said.get("rx_bps")) or 0.0,
        room=_room(said.get("room")),
        models=_models(said.get("models")),
    )


class StageHosts:
    """Nodes by name, as their agents told last. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[str, StageHost] = {}

    def put(self, host: StageHost) -> None:
        """An agent told of its node."""
        with self._lock:
            self._hosts[host.node] = host

    def get(self, node: str) -> StageHost | None:
        """The node, if its agent takes models."""
        with self._lock:
            return self._hosts.get(node)

    def all(self) -> dict[str, StageHost]:
        """All of them."""
        with self._lock:
            return dict(self._hosts)

    def gone(self, connected: Collection[str]) -> list[str]:
        """Forget nodes whose agents are not connected; returns them."""
        with self._lock:
            gone = [node for node in self._hosts if node not in connected]
            for node in gone:
                del self._hosts[node]
        return gone

    def holders(self, key: ModelKey, fingerprint: str, tier: TierKind | None = None) -> dict[str, Progress]:
        """Nodes that have the whole model, and what they said of it."""
        found = dict[str, Progress]()
        for node, host in self.all().items():
            for (held, kind), progress in host.models.items():
                whole = progress.state is StageState.COMPLETE and progress.fingerprint == fingerprint
                if held == key and whole and tier in {None, kind}:
                    found[node] = progress
        return found


def _models(said: object) -> dict[Place, Progress]:
    found = dict[Place, Progress]()
    for row in cast("list[object]", said)[:_MOST_MODELS] if isinstance(said, list) else ():
        try:
            progress = parse_progress(cast("Mapping[str, object]", row if isinstance(row, dict) else {}))
        except StagingError:
            continue
        found[progress.key, progress.tier] = progress
    return found


def _room(said: object) -> dict[TierKind, tuple[int, int]]:
    rows = cast("dict[str, object]", said) if isinstance(said, dict) else {}
    found = dict[TierKind, tuple[int, int]]()
    for kind in TierKind:
        row = rows.get(kind.value)
        if isinstance(row, list) and len(pair := cast("list[object]", row)) == 2:  # noqa: PLR2004
            found[kind] = int(_number(pair[0]) or 0), int(_number(pair[1]) or 0)
    return found


def _address(host: str, port: float) -> str:
    return f"[{host}]:{port:.0f}" if ":" in host else f"{host}:{port:.0f}"


def _text(value: object) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e16:  # noqa: PLR2004
        return float(value)
    return None
