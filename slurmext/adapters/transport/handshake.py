"""Two agents prove themselves to each other before one serves the other: munge credentials over both nonces.

    server: {"slurmext_staging": 1, "nonce": "<hex>"}
    client: {"node": "n2", "nonce": "<hex>", "credential": "MUNGE:…"}      over b"slurmext-fetch/1 n2 n1 <both nonces>"
    server: {"ok": true, "node": "n1", "credential": "MUNGE:…"}           over b"slurmext-serve/1 n2 n1 <both nonces>"

Munge gives the uid at the other end: only root's (or whoever runs the agents) is accepted, so no user can fetch what
another user may not read, and none can hand out bytes. A credential is good for one connection only.
"""

from __future__ import annotations

import hmac
import secrets
import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Protocol

from slurmext.adapters.tcp.wire import NODE, NONCE, Lines, WireError
from slurmext.errors import SlurmextError
from slurmext.staging.transport import LinkLost, Peer, Refused

VERSION: Final = 1
HANDSHAKE_S: Final = 10.0


class Proof(Protocol):
    """A checked credential."""

    @property
    def uid(self) -> int: ...
    @property
    def payload(self) -> bytes: ...


class Prover(Protocol):
    """Makes and checks credentials: munge, or a fake in tests."""

    def encode(self, payload: bytes) -> str: ...
    def decode(self, credential: str) -> Proof: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this agent is, and whose agents it talks to."""

    node: str
    prover: Prover
    trusted_uids: Collection[int] = (0,)

    def answer(self, lines: Lines) -> str:
        """The server's part: who the client is. Raises Refused, LinkLost."""
        nonce = secrets.token_hex(16)
        try:
            lines.send({"slurmext_staging": VERSION, "nonce": nonce})
            said = lines.greeting(HANDSHAKE_S)
            node, theirs = str(said.get("node", "")), str(said.get("nonce", ""))
            if not NODE.fullmatch(node) or not NONCE.fullmatch(theirs):
                raise Refused("no agent: what it said is no handshake")
            try:
                self._check(str(said.get("credential", "")), b"fetch", node, self.node, nonce + theirs)
            except Refused as error:
                lines.send({"ok": False, "error": str(error)})
                raise
            mine = self.prover.encode(_payload(b"serve", node, self.node, nonce + theirs))
            lines.send({"ok": True, "node": self.node, "credential": mine})
        except (OSError, WireError) as error:
            raise LinkLost(f"handshake: {error}") from error
        return node

    def prove(self, lines: Lines, peer: Peer) -> None:
        """The client's part. Raises Refused, LinkLost."""
        nonce = secrets.token_hex(16)
        try:
            theirs = str((lines.receive() or {}).get("nonce", ""))
            if not NONCE.fullmatch(theirs):
                raise Refused(f"what listens at {peer.address} is no slurmext agent (version {VERSION})")
            credential = self.prover.encode(_payload(b"fetch", self.node, peer.node, theirs + nonce))
            lines.send({"node": self.node, "nonce": nonce, "credential": credential})
            answer = lines.receive() or {}
        except (OSError, WireError) as error:
            raise LinkLost(f"{peer.node} ({peer.address}): {error}") from error
        if answer.get("ok") is not True:
            raise Refused(f"{peer.node} refused: {str(answer.get('error', 'no answer'))[:200]}")
        self._check(str(answer.get("credential", "")), b"serve", self.node, peer.node, theirs + nonce)

    def _check(self, credential: str, role: bytes, client: str, server: str, nonces: str) -> None:
        try:
            proof = self.prover.decode(credential)
        except SlurmextError as error:
            told = str(error)
            # munge's words for a credential of too long ago, or of the future
            skewed = "Expired" in told or "Rewound" in told
            remedy = ": the clocks of these two nodes differ by minutes; set them (chronyc makestep)" if skewed else ""
            raise Refused(f"no good credential: {told}{remedy}") from error
        if proof.uid not in self.trusted_uids:
            raise Refused(f"uid {proof.uid} is no agent's")
        if not hmac.compare_digest(proof.payload, _payload(role, client, server, nonces)):
            raise Refused("a credential for another connection")


def _payload(role: bytes, client: str, server: str, nonces: str) -> bytes:
    return b"slurmext-%b/%d %b %b %b" % (role, VERSION, client.encode(), server.encode(), nonces.encode())


def small_lines(connection: socket.socket) -> Lines:
    """Lines over a connection that may take `HANDSHAKE_S` for each."""
    connection.settimeout(HANDSHAKE_S)
    return Lines(connection)
