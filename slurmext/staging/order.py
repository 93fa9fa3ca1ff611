"""What an agent is told to do about a model, and what it says of it: plain values, also as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurmext.staging.access import Access
from slurmext.staging.errors import StagingError
from slurmext.staging.kinds import StageState, TierKind
from slurmext.staging.names import ModelKey
from slurmext.staging.transport import Peer


class BadOrder(StagingError):
    """An order that makes no sense to this version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Whom to take a share (0..1) of the chunks from, and how fast at most."""

    peer: Peer
    share: float = 1.0
    cap_bps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOrder:
    """Have this model here. The same order again with other sources changes where it is taken from.

    `fingerprint` is the manifest's, from the registry. `storage` is where the model lies on shared storage; it is read
    when a source is named `(storage)`, with the rights of the user `owner`. Chunks are taken from another model that is
    here only if that one is `owner`'s or root's too.
    """

    key: ModelKey
    fingerprint: str
    sources: tuple[Source, ...]
    backups: tuple[Peer, ...] = ()
    access: Access = Access()
    tier: TierKind = TierKind.MEMORY
    storage: Path | None = None
    owner: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A model on a node: bytes that are good, of how many, where they come from now, who sent bad ones, who holds it.

    `received` are bytes by source since the agent started; `lost` are sources that ended, and why. `fingerprint` is the
    manifest's, empty while it is not known.
    """

    key: ModelKey
    tier: TierKind
    state: StageState
    ready_bytes: int
    size: int
    rate_bps: float = 0.0
    received: Mapping[str, int] | None = None
    starved: bool = False
    """Whether the sources have nothing that is missing here: not this node's link is slow, but what is before it."""
    lost: Mapping[str, str] | None = None
    rejected: tuple[str, ...] = ()
    why: str = ""
    fingerprint: str = ""
    pins: tuple[str, ...] = ()


def order_to_json(order: StageOrder) -> dict[str, Any]:
    """The order as JSON."""
    return {
        "model": order.key.name, "revision": order.key.revision, "fingerprint": order.fingerprint,
        "sources": [[one.peer.node, one.peer.address, one.share, one.cap_bps] for one in order.sources],
        "backups": [[peer.node, peer.address] for peer in order.backups],
        "uid": order.access.uid, "gid": order.access.gid, "tier": order.tier.value,
        "storage": None if order.storage is None else str(order.storage), "owner": order.owner,
    }  # fmt: skip


def parse_order(said: Mapping[str, Any]) -> StageOrder:
    """The order of JSON. Raises BadOrder."""
    try:
        storage = said.get("storage")
        return StageOrder(
            key=ModelKey(said["model"], said["revision"]),
            fingerprint=bytes.fromhex(said["fingerprint"]).hex(),
            sources=tuple(
                Source(peer=Peer(node=str(node), address=str(address)), share=float(share), cap_bps=cap)
                for node, address, share, cap in said["sources"]
            ),
            backups=tuple(Peer(node=str(node), address=str(address)) for node, address in said.get("backups", ())),
            access=Access(uid=said.get("uid"), gid=said.get("gid")),
            tier=TierKind(said.get("tier", "memory")),
            storage=None if storage is None else Path(storage),
            owner=int(said.get("owner", 0) if storage is None else said["owner"]),  # never read as root by default
        )
    except (KeyError, TypeError, ValueError, StagingError) as error:
        raise BadOrder(f"no order to stage a model: {error}") from error


def progress_to_json(progress: Progress) -> dict[str, Any]:
    """The progress as JSON."""
    return {
        "model": progress.key.name, "revision": progress.key.revision, "tier": progress.tier.value,
        "state": progress.state.value, "ready_bytes": progress.ready_bytes, "size": progress.size,
        "rate_bps": round(progress.rate_bps), "received": dict(progress.received or {}), "starved": progress.starved,
        "lost": dict(progress.lost or {}), "rejected": list(progress.rejected), "why": progress.why,
        "fingerprint": progress.fingerprint, "pins": list(progress.pins),
    }  # fmt: skip


def parse_progress(said: Mapping[str, Any]) -> Progress:
    """The progress of JSON. Raises BadOrder."""
    try:
        return Progress(
            key=ModelKey(said["model"], said["revision"]), tier=TierKind(said["tier"]),
            state=StageState(said["state"]), ready_bytes=int(said["ready_bytes"]), size=int(said["size"]),
            rate_bps=float(said["rate_bps"]), received={str(k): int(v) for k, v in said["received"].items()},
            starved=bool(said["starved"]), lost={str(k): str(v) for k, v in said["lost"].items()},
            rejected=tuple(map(str, said["rejected"])), why=str(said["why"]),
            fingerprint=str(said.get("fingerprint", "")), pins=tuple(map(str, said.get("pins", ()))),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError, StagingError) as error:
        raise BadOrder(f"no progress of a model: {error}") from error
