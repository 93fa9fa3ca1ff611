"""Peers that lie: changed bytes, other protocols, manifests and credentials of their own."""

from __future__ import annotations

import socket
import threading
import time
from typing import NoReturn

import pytest

from slurmext.adapters.munge import MungeError
from slurmext.adapters.tcp.wire import Lines
from slurmext.adapters.transport.framing import DATA, HEAD, TEXT
from slurmext.adapters.transport.handshake import Identity
from slurmext.adapters.transport.sockets import SocketTransport
from slurmext.staging.order import Source, StageState
from slurmext.staging.transport import LinkLost, Peer, Refused

from .conftest import Cluster, KeyedMunge, eventually


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


@pytest.mark.parametrize("told", ["Expired credential", "Rewound credential"])
def test_nodes_whose_clocks_differ_are_told_so(cluster: Cluster, told: str):
    """Munge says only that the credential is of another time."""

    class Skewed(KeyedMunge):
        def decode(self, credential: str) -> NoReturn:
            raise MungeError(f"munge: {told}")

    cluster.start("n0")
    transport = SocketTransport("127.0.0.1:0", Identity(node="n1", prover=Skewed()))
    with pytest.raises(Refused, match=f"{told}: the clocks of these two nodes differ"):
        transport.fetch_manifest(cluster.peer("n0"), "00" * 32)
    transport.stop()


def test_a_credential_is_for_one_connection(cluster: Cluster, model):
    """What a listener in between overheard opens no other connection: both nonces are in it, and munge spends it."""
    cluster.start("n0")
    first, second = KeyedMunge(), KeyedMunge()

    class Replayed:
        def encode(self, payload: bytes) -> str:
            self.kept = getattr(self, "kept", None) or first.encode(payload)
            return self.kept

        decode = second.decode

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
