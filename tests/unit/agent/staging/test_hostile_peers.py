"""Peers with real munge credentials that are no agents of this cluster: they neither get a byte nor have one taken."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.staging.conftest import Cluster, eventually, munged
from slurmext.adapters.munge_library import find_munge
from slurmext.adapters.transport.handshake import Identity
from slurmext.adapters.transport.sockets import SocketTransport
from slurmext.agent.staging.engine import StagingEngine
from slurmext.staging.order import Source
from slurmext.staging.store.tier import Tier, TierKind
from slurmext.staging.transport import Peer, Refused

NOBODY = 65534
PEER = """
import encodings.idna, os, sys
from pathlib import Path
from slurmext.adapters.munge_library import find_munge
from slurmext.adapters.transport.handshake import Identity
from slurmext.adapters.transport.sockets import SocketTransport
from slurmext.staging.errors import StagingError
from slurmext.staging.transport import Peer

socket, what, address, fingerprint, uid = sys.argv[1:]
os.setgroups([]); os.setgid(int(uid)); os.setuid(int(uid))  # after the imports: the interpreter may be root's alone
identity = Identity(node="n2", prover=find_munge(socket=Path(socket)), trusted_uids=range(70000))
transport = SocketTransport("127.0.0.1:0", identity)
if what == "fetch":
    try:
        print("got", len(transport.fetch_manifest(Peer(node="n1", address=address), fingerprint)))
    except StagingError as error:
        print(error)
else:
    asked = lambda name: print("asked for", name, flush=True) if name else None  # empty: it hung up
    transport.serve(lambda _, name: asked(name), lambda *_: None, asked)
    print("{}:{}".format(*transport.address), flush=True)
    sys.stdin.read()
transport.stop()
"""


@pytest.fixture
def key() -> Iterator[Path]:
    """The cluster's munge."""
    with munged() as socket:
        yield socket


@pytest.fixture
def engine(key: Path, cluster: Cluster) -> StagingEngine:
    """An agent of the cluster."""
    tiers = {TierKind.MEMORY: Tier(cluster.room / "n1", TierKind.MEMORY, capacity_bytes=256 << 20)}
    identity = Identity(node="n1", prover=find_munge(socket=key))
    made = StagingEngine(tiers, SocketTransport("127.0.0.1:0", identity), give_up_s=2)
    made.start()
    cluster.engines["n1"] = made
    return made


def peer(key: Path, what: str, engine: StagingEngine, fingerprint: str, uid: int) -> subprocess.Popen[str]:
    """A program that speaks the agents' protocol, run by this user with this key."""
    words = [sys.executable, "-c", PEER, str(key), what, "{}:{}".format(*engine.address), fingerprint]
    return subprocess.Popen([*words, str(uid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_user_and_a_foreign_key_are_served_nothing(key, engine, cluster, model):
    """A user of the cluster has its munge but is not root; a root elsewhere has another key."""
    cluster.seed("n1", model)
    fingerprint = model.manifest.fingerprint()
    with munged() as foreign:
        programs = [peer(key, "fetch", engine, fingerprint, NOBODY), peer(foreign, "fetch", engine, fingerprint, 0),
                    peer(key, "fetch", engine, fingerprint, 0)]  # fmt: skip
        user, stranger, agent = (program.communicate(timeout=20)[0] for program in programs)
    assert f"uid {NOBODY} is no agent's" in user
    assert "no good credential" in stranger
    assert agent == f"got {len(model.manifest.dump())}\n"


def test_a_user_and_a_foreign_key_are_believed_nothing(key, engine, cluster, model):
    """Who listens at an agent's address without being one is asked for nothing but his credential."""
    engine.learn(model.manifest)
    fingerprint = model.manifest.fingerprint()
    with munged() as foreign:
        for socket, uid, told in ((key, NOBODY, f"uid {NOBODY}"), (foreign, 0, "credential")):
            program = peer(socket, "serve", engine, fingerprint, uid)
            assert program.stdout is not None
            address = program.stdout.readline().strip()
            engine.stage(cluster.order(model.manifest, Source(peer=Peer(node="n2", address=address))))
            eventually(lambda told=told: told in str(engine.progress()[0].lost))
            engine.cancel(model.manifest.key)
            assert program.communicate(timeout=20)[0] == ""
    [progress] = engine.progress()
    assert progress.ready_bytes == 0
    with pytest.raises(Refused):
        SocketTransport(
            "127.0.0.1:0", Identity(node="n1", prover=find_munge(socket=key), trusted_uids={7})
        ).fetch_manifest(Peer(node="n1", address="{}:{}".format(*engine.address)), fingerprint)
