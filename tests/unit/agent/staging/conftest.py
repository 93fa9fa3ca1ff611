"""Several agents' engines in one process, with a stand-in for munge."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))

from staging.conftest import write_model

from agent.conftest import KeyedMunge
from slurmext.adapters.transport.handshake import Identity
from slurmext.adapters.transport.sockets import SocketTransport
from slurmext.agent.staging.engine import StagingEngine
from slurmext.staging.access import Access
from slurmext.staging.importer import Imported, import_model
from slurmext.staging.manifest import Manifest
from slurmext.staging.order import Source, StageOrder
from slurmext.staging.plan.fabric import STORAGE
from slurmext.staging.store.tier import Tier, TierKind
from slurmext.staging.transport import Peer
from tests.waiting import until

PUBLIC = Access()


class Cluster:
    """Engines by node. `n0` has every model, taken from storage when first asked for."""

    def __init__(self, room: Path) -> None:
        self.room = room
        self.engines: dict[str, StagingEngine] = {}

    def start(
        self, node: str, *, key: bytes = b"k", uid: int = 0, give_up_s: float = 5, tx_cap_bps: float | None = None
    ) -> StagingEngine:
        tiers = {
            TierKind.MEMORY: Tier(self.room / node / "memory", TierKind.MEMORY, capacity_bytes=256 << 20),
            TierKind.DISK: Tier(self.room / node / "disk", TierKind.DISK, capacity_bytes=256 << 20),
        }
        identity = Identity(node=node, prover=KeyedMunge(uid=uid, key=key))
        engine = StagingEngine(
            tiers, SocketTransport("127.0.0.1:0", identity), give_up_s=give_up_s, tx_cap_bps=tx_cap_bps
        )
        engine.start()
        self.engines[node] = engine
        return engine

    def peer(self, node: str) -> Peer:
        return Peer(node=node, address="{}:{}".format(*self.engines[node].address))

    def order(
        self,
        manifest: Manifest,
        *sources: str | Source,
        backups: tuple[str, ...] = (),
        tier: TierKind = TierKind.MEMORY,
        access: Access = PUBLIC,
    ) -> StageOrder:
        """An order to take a model from these nodes."""
        return StageOrder(
            key=manifest.key,
            fingerprint=manifest.fingerprint(),
            sources=tuple(one if isinstance(one, Source) else Source(peer=self.peer(one)) for one in sources),
            backups=tuple(self.peer(node) for node in backups),
            tier=tier,
            access=access,
        )

    def seed(self, node: str, imported: Imported) -> None:
        """Have the model on a node, from its files."""
        engine = self.engines[node]
        engine.learn(imported.manifest)
        source = Source(peer=Peer(node=STORAGE, address=str(imported.tree.root)))
        engine.stage(self.order(imported.manifest, source))
        self.complete(imported.manifest, node)

    def complete(
        self, manifest: Manifest, *nodes: str, tier: TierKind = TierKind.MEMORY, timeout_s: float = 20
    ) -> None:
        """Wait until these nodes have the model, and check every byte."""
        for node in nodes:
            assert self.engines[node].wait(manifest.key, timeout_s, tier), (node, self.engines[node].progress())
            staged = self.engines[node].find(manifest.key, tier)
            assert staged is not None and staged.recheck() == []

    def stop(self) -> None:
        for engine in self.engines.values():
            engine.stop()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """No engine yet."""
    room = Path(tempfile.mkdtemp(prefix="slurmext-test-", dir="/dev/shm"))
    made = Cluster(room)
    yield made
    made.stop()
    shutil.rmtree(room, ignore_errors=True)


@pytest.fixture
def model(tmp_path: Path) -> Imported:
    """Sixteen MiB in several files."""
    directory = write_model(tmp_path / "files", tensors=4, tensor_bytes=4 << 20)
    (directory / "sub").mkdir()
    (directory / "sub" / "tokens.bin").write_bytes(b"t" * 700_000)
    (directory / "empty").write_bytes(b"")
    return import_model(directory, "org/m", "v1")


eventually = partial(until, pause_s=0.01)
"""Transfers on one machine are quick, and tests step in while they go on."""


@contextmanager
def munged() -> Iterator[Path]:
    """The socket of a munged of one's own, with a key of its own."""
    program = shutil.which("munged", path="/usr/sbin:/usr/bin")
    if program is None or os.geteuid() != 0:
        pytest.skip("needs munged and root")
    # Munge wants a path that nobody else can write to.
    place = Path(tempfile.mkdtemp(prefix="slurmext-munge-", dir="/run"))
    place.chmod(0o755)
    (place / "key").write_bytes(os.urandom(128))
    (place / "key").chmod(0o400)
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    words = [f"--{option}={place / name}" for option, name in names.items()]
    process = subprocess.Popen([program, "--foreground", *words], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 10
    while not (place / "socket").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        yield place / "socket"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(place)
