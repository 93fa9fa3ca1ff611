"""The registry behind its requests: users who ask, a desk that notes what it is asked."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import pytest

from slurmext.service.models import Caller, ModelRequests, Quotas
from slurmext.staging.kinds import TierKind
from slurmext.staging.manifest import CHUNK_BYTES, FileEntry, Manifest
from slurmext.staging.names import ModelKey
from slurmext.testing.memory_store import MemoryStore

ANN = Caller(uid=1001, user="ann", groups={"ann": 1001, "nlp": 54321})
BOB = Caller(uid=1002, user="bob", groups={"bob": 1002, "nlp": 54321})
EVE = Caller(uid=1003, user="eve", groups={"eve": 1003})
ROOT = Caller(uid=0, user="root", sees_all=True)


@dataclass
class NotingDesk:
    """A desk with four nodes."""

    asked: list[tuple[str, ModelKey, tuple[str, ...]]] = field(default_factory=list)

    def nodes(self) -> Collection[str]:
        return ["n1", "n2", "n3", "n4"]

    def rooms(self, tier: TierKind) -> dict[str, int]:
        if tier is TierKind.DISK:
            return {"n1": 100 * CHUNK_BYTES}
        return {"n1": 100 * CHUNK_BYTES, "n2": 100 * CHUNK_BYTES, "n4": 4 * CHUNK_BYTES}

    def wanted(self, key: ModelKey, nodes: Collection[str], tier: TierKind, by: str) -> None:
        self.asked.append((f"{by} wants in {tier}", key, tuple(nodes)))

    def evict(self, key: ModelKey, nodes: Collection[str], tier: TierKind) -> Collection[str]:
        self.asked.append((f"evict from {tier}", key, tuple(nodes)))
        return nodes

    def verify(self, key: ModelKey, nodes: Collection[str]) -> Collection[str]:
        self.asked.append(("verify", key, tuple(nodes)))
        return nodes

    def changed(self) -> None:
        self.asked.append(("changed", ModelKey("x", "y"), ()))


def made(name: str, *seeds: int, revision: str = "v1", chunk_bytes: int = CHUNK_BYTES) -> Manifest:
    """A manifest of one file with a chunk for each seed."""
    size = chunk_bytes * len(seeds)
    return Manifest(
        key=ModelKey(name, revision),
        files=(FileEntry(name="model.safetensors", size=size, sha256="ab" * 32),),
        lengths=array("I", [chunk_bytes] * len(seeds)),
        digests=b"".join(seed.to_bytes(16, "big") for seed in seeds),
    )


@dataclass
class Site:
    """The requests, and what is behind them."""

    store: MemoryStore
    desk: NotingDesk
    requests: ModelRequests
    clock: list[float]

    def ask(self, caller: Caller, op: str, **arguments: Any) -> dict[str, Any]:
        return self.requests.answer(caller, op, {name: each for name, each in arguments.items() if each is not None})

    def upload(self, caller: Caller, manifest: Manifest, *, parts: int = 1) -> str:
        raw, fingerprint = manifest.dump(), manifest.fingerprint()
        step = -(-len(raw) // parts)
        for at in range(0, len(raw), step):
            data = base64.b64encode(raw[at : at + step]).decode()
            self.ask(caller, "model_upload", fingerprint=fingerprint, at=at, data=data)
        return fingerprint

    def register(self, caller: Caller, manifest: Manifest, **more: Any) -> dict[str, Any]:
        fingerprint = self.upload(caller, manifest)
        return self.ask(caller, "model_register", **{"fingerprint": fingerprint, "storage": "/share/m", **more})


@pytest.fixture
def site_of() -> Callable[..., Site]:
    """Makes a site with quotas."""

    def make(**quotas: int) -> Site:
        store, desk, clock = MemoryStore(), NotingDesk(), [5000.0]
        requests = ModelRequests(store=store, desk=desk, quotas=Quotas(**quotas), now=lambda: clock[0])
        return Site(store, desk, requests, clock)

    return make


@pytest.fixture
def site(site_of: Callable[..., Site]) -> Site:
    return site_of()
