"""Models between agents: relayed while received, checked at every hop, resumed, taken from wherever is left."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from staging.conftest import noise, safetensors

from slurmext.adapters.tcp.wire import Lines
from slurmext.adapters.transport.framing import DATA, HEAD, TEXT, fill_exactly
from slurmext.adapters.transport.handshake import Identity
from slurmext.staging.access import Access
from slurmext.staging.importer import import_model
from slurmext.staging.order import Source, StageState
from slurmext.staging.plan.fabric import STORAGE
from slurmext.staging.store.tier import TierKind
from slurmext.staging.transport import LinkLost, Peer, Refused

from .conftest import Cluster, KeyedMunge, eventually, write_model


def test_a_chain_relays_while_it_receives(cluster: Cluster, model):
    """Orders may arrive in any order; every node ends with every byte, the last ones with a paced source as well."""
    for node in ("n0", "n1", "n2", "n3"):
        cluster.start(node, tx_cap_bps=200e6 if node == "n0" else None)
    cluster.seed("n0", model)
    for node, source in (("n3", "n2"), ("n2", "n1"), ("n1", "n0")):
        cluster.engines[node].stage(cluster.order(model.manifest, source, backups=("n0",) if source != "n0" else ()))
    first = cluster.engines["n1"]
    eventually(lambda: (one := cluster.engines["n3"].find(model.manifest.key)) is not None and one.ready_chunks > 2)
    assert not first.find(model.manifest.key).complete, "the last node began before the first one was done"
    cluster.complete(model.manifest, "n1", "n2", "n3")
    assert [one.state for one in first.progress()] == [StageState.COMPLETE]
    assert first.progress()[0].received == {"n0": model.manifest.size}


def test_two_sources_are_striped(cluster: Cluster, model):
    """Each sends about its share; when one is done early it helps the other."""
    for node in ("n0", "n1", "n2"):
        cluster.start(node, tx_cap_bps=100e6)
    cluster.seed("n0", model)
    cluster.seed("n1", model)
    sources = [Source(peer=cluster.peer(node), share=share) for node, share in (("n0", 0.25), ("n1", 0.75))]
    cluster.engines["n2"].stage(cluster.order(model.manifest, *sources))
    cluster.complete(model.manifest, "n2")
    received = cluster.engines["n2"].progress()[0].received
    assert sum(received.values()) == model.manifest.size
    assert min(received.values()) > model.manifest.size // 5


def test_shared_storage_is_read_once(cluster: Cluster, model):
    """By the head of the chain; the others take it from there."""
    for node in ("n0", "n1"):
        cluster.start(node).learn(model.manifest)
    cluster.engines["n1"].stage(cluster.order(model.manifest, "n0"))
    storage = Source(peer=Peer(node=STORAGE, address=str(model.tree.root)))
    cluster.engines["n0"].stage(cluster.order(model.manifest, storage))
    cluster.complete(model.manifest, "n0", "n1")
    assert cluster.engines["n0"].progress()[0].received == {STORAGE: model.manifest.size}
    assert cluster.engines["n1"].progress()[0].received == {"n0": model.manifest.size}


def test_a_transfer_resumes_where_it_was(cluster: Cluster, model):
    """After an agent's end nothing that was checked is sent again."""
    cluster.start("n0", tx_cap_bps=40e6)
    cluster.start("n1")
    cluster.seed("n0", model)
    cluster.engines["n1"].stage(cluster.order(model.manifest, "n0"))
    eventually(lambda: (one := cluster.engines["n1"].find(model.manifest.key)) is not None and one.ready_chunks >= 8)
    cluster.engines["n1"].stop()
    again = cluster.start("n1")
    had = again.find(model.manifest.key).ready_bytes
    assert had >= 2 << 20  # the small files come first
    cluster.engines["n0"]._tx_cap_bps = None
    again.stage(cluster.order(model.manifest, "n0"))
    cluster.complete(model.manifest, "n1")
    assert again.progress()[0].received == {"n0": model.manifest.size - had}


def test_what_other_models_have_is_not_sent(cluster: Cluster, model, tmp_path):
    """A fine-tune travels as what it changed."""
    for node in ("n0", "n1"):
        cluster.start(node)
    tuned = import_model(write_model(tmp_path / "tuned", seeds=(0, 1, 99, 3), tensor_bytes=4 << 20), "org/tuned", "v1")
    cluster.seed("n0", model)
    cluster.seed("n0", tuned)
    for manifest in (model.manifest, tuned.manifest):
        cluster.engines["n1"].stage(cluster.order(manifest, "n0"))
        cluster.complete(manifest, "n1")
    sent = sum(next(one for one in cluster.engines["n1"].progress() if one.key == tuned.manifest.key).received.values())
    assert (4 << 20) <= sent < (6 << 20)


def test_sources_change_while_it_runs(cluster: Cluster, model):
    """What the new order says counts; chunks already here are kept."""
    cluster.start("n0", tx_cap_bps=20e6)
    cluster.start("n1")
    cluster.start("n2")
    cluster.seed("n0", model)
    cluster.seed("n1", model)
    cluster.engines["n2"].stage(cluster.order(model.manifest, "n0"))
    eventually(lambda: (one := cluster.engines["n2"].find(model.manifest.key)) is not None and one.ready_chunks >= 2)
    cluster.engines["n2"].stage(cluster.order(model.manifest, "n1"))
    cluster.complete(model.manifest, "n2")
    received = cluster.engines["n2"].progress()[0].received
    assert received["n1"] > received["n0"] > 0


def test_a_lost_source_is_replaced_by_its_own_source(cluster: Cluster, model):
    """The receiver turns to the backup at once."""
    cluster.start("n0", tx_cap_bps=60e6)
    for node in ("n1", "n2"):
        cluster.start(node)
    cluster.seed("n0", model)
    cluster.engines["n1"].stage(cluster.order(model.manifest, "n0"))
    cluster.engines["n2"].stage(cluster.order(model.manifest, "n1", backups=("n0",)))
    eventually(lambda: (one := cluster.engines["n2"].find(model.manifest.key)) is not None and one.ready_chunks >= 4)
    cluster.engines["n1"].stop()
    del cluster.engines["n1"]
    cluster.complete(model.manifest, "n2")
    told = cluster.engines["n2"].progress()[0]
    assert set(told.received) == {"n0", "n1"}
    assert "n1" in told.lost


PROCESS = """
import signal, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from agent.staging.conftest import Cluster
from staging.conftest import *
from slurmext.agent.server import UnixServer
cluster = Cluster(Path({room!r}))
cluster.start({node!r})
print(cluster.peer({node!r}).address, flush=True)
sources = [one for one in sys.stdin.readline().split()]
from slurmext.staging.importer import import_model
from slurmext.staging.transport import Peer
from slurmext.staging.order import Source, StageOrder
manifest = import_model(Path({files!r}), "org/m", "v1").manifest
cluster.engines[{node!r}].stage(StageOrder(key=manifest.key, fingerprint=manifest.fingerprint(),
    sources=(Source(peer=Peer(node="n0", address=sources[0])),)))
signal.pause()
"""


def test_a_relay_that_is_killed_costs_its_receivers_nothing_but_time(cluster: Cluster, model):
    """Kill -9 of a process in the middle: the next node goes on with the source before it, every byte good."""
    cluster.start("n0", tx_cap_bps=60e6)
    cluster.start("n2")
    cluster.seed("n0", model)
    tests = str(Path(__file__).parents[2])
    code = PROCESS.format(paths=[tests], room=str(cluster.room), node="n1", files=str(model.tree.root))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as relay:
        try:
            address = relay.stdout.readline().strip()
            relay.stdin.write(cluster.peer("n0").address + "\n")
            relay.stdin.flush()
            order = cluster.order(model.manifest, Source(peer=Peer(node="n1", address=address)), backups=("n0",))
            cluster.engines["n2"].stage(order)
            eventually(lambda: (one := cluster.engines["n2"].find(model.manifest.key)) and one.ready_chunks >= 4)
        finally:
            os.kill(relay.pid, signal.SIGKILL)
    cluster.complete(model.manifest, "n2")
    assert set(cluster.engines["n2"].progress()[0].received) == {"n0", "n1"}


class Hostile:
    """A peer that proves itself, as a host that was taken over could, and sends other bytes than the model's."""

    def __init__(self, manifest, *, frame: bytes | None = None, key: bytes = b"k", uid: int = 0) -> None:
        self._manifest = manifest
        self._frame = frame
        self._identity = Identity(node="evil", prover=KeyedMunge(key=key, uid=uid))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.asked: list[dict] = []
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def peer(self) -> Peer:
        return Peer(node="evil", address=f"127.0.0.1:{self._listener.getsockname()[1]}")

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            lines = Lines(connection)
            try:
                self._identity.answer(lines)
                said = lines.receive() or {}
                self.asked.append(said)
                content = self._manifest.dump()[:-1] + b"x" if "manifest" in said else b"{}"
                connection.sendall(HEAD.pack(TEXT, 0, len(content), 0) + content)
                if "manifest" not in said:
                    self.asked.append(lines.receive() or {})
                    connection.sendall(self._frame or HEAD.pack(DATA, 0, 1, 0) + bytes(self._manifest.lengths[0]))
                    time.sleep(0.2)
            except (OSError, LinkLost, Refused):
                pass
            connection.close()


def test_a_changed_byte_is_never_accepted(cluster: Cluster, model):
    """The peer that sent it is not asked again, the bytes come from another, nobody is served the bad ones."""
    cluster.start("n0")
    cluster.start("n1")
    cluster.seed("n0", model)
    cluster.engines["n1"].learn(model.manifest)
    evil = Hostile(model.manifest)
    cluster.engines["n1"].stage(cluster.order(model.manifest, Source(peer=evil.peer), backups=("n0",)))
    cluster.complete(model.manifest, "n1")
    told = cluster.engines["n1"].progress()[0]
    assert told.rejected == ("evil",)
    assert told.received == {"n0": model.manifest.size}


@pytest.mark.parametrize(
    "frame",
    [
        HEAD.pack(DATA, 0, 0, 0),
        HEAD.pack(DATA, 1 << 31, 1, 0),
        HEAD.pack(DATA, 0, (1 << 32) - 1, 0),
        HEAD.pack(b"EVIL", 0, 1, 0),
        b"\xff" * 64,
    ],
)
def test_frames_that_are_none_end_the_link(cluster: Cluster, model, frame):
    """Chunks that the model does not have, runs without end, other protocols."""
    cluster.start("n0")
    cluster.start("n1")
    cluster.seed("n0", model)
    cluster.engines["n1"].learn(model.manifest)
    cluster.engines["n1"].stage(
        cluster.order(model.manifest, Source(peer=Hostile(model.manifest, frame=frame).peer), backups=("n0",))
    )
    cluster.complete(model.manifest, "n1")


def test_a_manifest_is_believed_only_with_its_fingerprint(cluster: Cluster, model):
    """A peer cannot make another model of the one that was ordered."""
    cluster.start("n1", give_up_s=1)
    cluster.engines["n1"].stage(cluster.order(model.manifest, Source(peer=Hostile(model.manifest).peer)))
    eventually(lambda: cluster.engines["n1"].progress()[0].state is StageState.FAILED)
    assert "not the one the registry knows" in cluster.engines["n1"].progress()[0].why


def test_who_does_not_prove_to_be_an_agent_is_served_nothing(cluster: Cluster, model):
    """Another key, a user's uid, another's credential, none at all: refused before anything is said of the model."""
    cluster.start("n0")
    cluster.seed("n0", model)
    held = cluster.engines["n0"].find(model.manifest.key)
    for prover in (KeyedMunge(key=b"other"), KeyedMunge(uid=1000)):
        from slurmext.adapters.transport.sockets import SocketTransport

        stranger = SocketTransport("127.0.0.1:0", Identity(node="n9", prover=prover))
        for ask in (
            lambda t=stranger: t.connect(cluster.peer("n0"), held),
            lambda t=stranger: t.fetch_manifest(cluster.peer("n0"), model.manifest.fingerprint()),
        ):
            with pytest.raises(Refused):
                ask()
        stranger.stop()
    host, port = cluster.engines["n0"].address
    with socket.create_connection((host, port)) as connection:
        connection.settimeout(5)
        nonce = connection.recv(1000)
        assert b"slurmext_staging" in nonce
        connection.sendall(b'{"node": "n9", "nonce": "%b", "credential": "MUNGE:x"}\n' % (b"0" * 32))
        connection.sendall(b'{"open": "%b"}\n' % model.manifest.fingerprint().encode())
        answer = b""
        while piece := connection.recv(1000):
            answer += piece
    assert b'"ok": false' in answer
    assert len(answer) < 1000


def test_who_listens_without_being_an_agent_is_not_believed(cluster: Cluster, model):
    """A user who took over a port with a key of his own, or with his own uid, injects nothing."""
    cluster.start("n0")
    cluster.start("n1")
    cluster.seed("n0", model)
    cluster.engines["n1"].learn(model.manifest)
    for evil in (Hostile(model.manifest, key=b"other"), Hostile(model.manifest, uid=1000)):
        cluster.engines["n1"].stage(cluster.order(model.manifest, Source(peer=evil.peer), backups=("n0",)))
        cluster.complete(model.manifest, "n1")
        assert not any(evil.asked)
        cluster.engines["n1"].evict(model.manifest.key)


def test_a_credential_is_for_one_connection(cluster: Cluster, model):
    """What a listener in between overheard opens no other connection: both nonces are in it, and munge spends it."""
    cluster.start("n0")
    first, second = KeyedMunge(), KeyedMunge()

    class Replayed:
        def encode(self, payload: bytes) -> str:
            self.kept = getattr(self, "kept", None) or first.encode(payload)
            return self.kept

        decode = second.decode

    from slurmext.adapters.transport.sockets import SocketTransport

    transport = SocketTransport("127.0.0.1:0", Identity(node="n1", prover=Replayed()))
    with pytest.raises(Refused):
        transport.fetch_manifest(Peer(node="n5", address=cluster.peer("n0").address), "00" * 32)
    with pytest.raises(Refused, match="Replayed|another connection"):
        transport.fetch_manifest(cluster.peer("n0"), "00" * 32)
    transport.stop()

    class Other(KeyedMunge):
        def encode(self, payload: bytes) -> str:
            return super().encode(payload.replace(b" n0 ", b" n7 "))

    transport = SocketTransport("127.0.0.1:0", Identity(node="n1", prover=Other()))
    with pytest.raises(Refused, match="another connection"):
        transport.fetch_manifest(cluster.peer("n0"), "00" * 32)
    transport.stop()


def test_nobody_left_is_said_with_reasons(cluster: Cluster, model):
    """After the time for giving up; another order with a source that is there goes on from what is here."""
    cluster.start("n0")
    cluster.start("n1", give_up_s=0.5)
    cluster.seed("n0", model)
    cluster.engines["n1"].learn(model.manifest)
    gone = Peer(node="gone", address="127.0.0.1:1")
    cluster.engines["n1"].stage(cluster.order(model.manifest, Source(peer=gone)))
    eventually(lambda: cluster.engines["n1"].progress()[0].state is StageState.FAILED)
    assert "gone" in cluster.engines["n1"].progress()[0].why
    cluster.engines["n1"].stage(cluster.order(model.manifest, "n0"))
    cluster.complete(model.manifest, "n1")


def test_from_disk_to_memory_and_to_other_nodes(cluster: Cluster, model):
    """The disk tier serves as the memory tier does."""
    for node in ("n0", "n1"):
        cluster.start(node)
    cluster.seed("n0", model)
    cluster.engines["n1"].stage(cluster.order(model.manifest, "n0", tier=TierKind.DISK))
    cluster.complete(model.manifest, "n1", tier=TierKind.DISK)
    cluster.engines["n0"].evict(model.manifest.key)
    cluster.engines["n0"].stage(cluster.order(model.manifest, "n1"))
    cluster.complete(model.manifest, "n0")


def test_pinned_models_stay_and_others_go(cluster: Cluster, model):
    """Also while they are being served."""
    cluster.start("n0", tx_cap_bps=60e6)
    cluster.start("n1")
    cluster.seed("n0", model)
    assert cluster.engines["n0"].pin(model.manifest.key, "job-1")
    from slurmext.staging.errors import StagingError

    with pytest.raises(StagingError, match="job-1"):
        cluster.engines["n0"].evict(model.manifest.key)
    cluster.engines["n0"].unpin(model.manifest.key, "job-1")
    cluster.engines["n1"].stage(cluster.order(model.manifest, "n0"))
    eventually(lambda: (one := cluster.engines["n1"].find(model.manifest.key)) is not None and one.ready_chunks >= 2)
    cluster.engines["n0"].evict(model.manifest.key)
    assert cluster.engines["n0"].progress() == ()
    assert not (cluster.room / "n0" / "memory" / "org--m" / "v1").exists()


def test_two_orders_at_once_are_one_transfer(cluster: Cluster, model):
    """Whoever asks."""
    for node in ("n0", "n1"):
        cluster.start(node)
    cluster.seed("n0", model)
    for _ in range(5):
        cluster.engines["n1"].stage(cluster.order(model.manifest, "n0", access=Access()))
    cluster.complete(model.manifest, "n1")
    assert cluster.engines["n1"].progress()[0].received == {"n0": model.manifest.size}


def test_what_the_own_disk_has_is_not_fetched(cluster: Cluster, model):
    """It is read from there into memory; damaged on the disk, the rest comes from the peer that the order names."""
    for node in ("n0", "n1"):
        cluster.start(node)
    cluster.seed("n0", model)
    own = cluster.engines["n1"]
    own.stage(cluster.order(model.manifest, "n0", tier=TierKind.DISK))
    cluster.complete(model.manifest, "n1", tier=TierKind.DISK)
    own.stage(cluster.order(model.manifest, "n0"))
    cluster.complete(model.manifest, "n1")
    assert next(one for one in own.progress() if one.tier is TierKind.MEMORY).received == {
        "(disk)": model.manifest.size
    }
    own.evict(model.manifest.key)
    damaged = own.find(model.manifest.key, TierKind.DISK)
    damaged.view(8)[:10] = bytes(10)
    own.stage(cluster.order(model.manifest, "n0"))
    cluster.complete(model.manifest, "n1")
    told = next(one for one in own.progress() if one.tier is TierKind.MEMORY)
    assert told.rejected == ("(disk)",)
    assert told.received["n0"] >= model.manifest.lengths[8]


def test_whoever_waits_next_is_woken_for_less():
    """After an answer that came in pieces a sign of life of a few bytes is still noticed."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours, (theirs, _) = socket.create_connection(listener.getsockname()), listener.accept()
    with listener, ours, theirs:
        later = threading.Timer(0.1, lambda: theirs.sendall(bytes(100_000)))
        later.start()
        fill_exactly(ours, memoryview(bytearray(100_000)))
        theirs.sendall(b"beat")
        assert select.select([ours], [], [], 2)[0] == [ours]
        later.join()


def test_what_the_forward_pass_needs_first_comes_first(cluster: Cluster, tmp_path):
    """From storage and over a link: when the last layers are not there yet, the first ones are."""
    names = [f"layers.{at}.w" for at in (10, 11, 2, 3)]  # as they lie in the file
    (tmp_path / "m").mkdir()
    tensors = {name: ("U8", [4 << 20], noise(4 << 20, at)) for at, name in enumerate(names)}
    (tmp_path / "m" / "model.safetensors").write_bytes(safetensors(tensors))
    deep = import_model(tmp_path / "m", "org/deep", "v1")
    for node in ("n0", "n1"):
        cluster.start(node, tx_cap_bps=60e6)
    cluster.seed("n0", deep)
    came: list[int] = []
    staged = cluster.engines["n1"]._tier(TierKind.MEMORY).create(deep.manifest, Access())
    staged.follow(came.append)
    cluster.engines["n1"].learn(deep.manifest)
    cluster.engines["n1"].stage(cluster.order(deep.manifest, "n0"))
    cluster.complete(deep.manifest, "n1")
    assert came == [deep.manifest.of_rank(rank) for rank in range(deep.manifest.chunk_count)]
    assert came != sorted(came)
