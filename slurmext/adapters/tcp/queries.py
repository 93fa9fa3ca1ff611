"""Questions from other hosts, over the agents' port: munge says who asks, and who answers.

    server: {"slurmext": 1, "nonce": "<hex>"}
    client: {"query": "<JSON text>", "nonce": "<hex>", "credential": "MUNGE:…"}
            over b"slurmext-query/1 <server's nonce> <own> <hash of the text>"
    server: {"reply": "<JSON text>", "credential": "MUNGE:…"}
            over b"slurmext-reply/1 <server's nonce> <client's> <hash of the text>"

The hash is SHA-256 of the text, so neither question nor answer can be changed or replayed on the way.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import socket
from collections.abc import Callable, Collection, Mapping
from typing import Any

from slurmext.adapters.munge import MungeAuth, MungeError
from slurmext.adapters.query_client import DaemonUnavailableError, answer_in, question
from slurmext.adapters.tcp.wire import NONCE, VERSION, Lines, WireError, split_address

OnQuery = Callable[[int, object], Mapping[str, object]]
MAX_REPLY_BYTES = 256 << 20


def payload(kind: str, server_nonce: str, client_nonce: str, text: str) -> bytes:
    """What a credential is over; `kind` is query or reply."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"slurmext-{kind}/{VERSION} {server_nonce} {client_nonce} {digest}".encode()


def serve_query(lines: Lines, message: Mapping[str, Any], nonce: str, munge: MungeAuth, on_query: OnQuery) -> None:
    """The controller's end: check who asks, answer. Raises WireError, MungeError."""
    text, theirs, credential = (str(message.get(key, "")) for key in ("query", "nonce", "credential"))
    if not NONCE.fullmatch(theirs) or not credential.startswith("MUNGE:"):
        raise WireError("asks without a credential")
    proof = munge.decode(credential)
    if not hmac.compare_digest(proof.payload, payload("query", nonce, theirs, text)):
        raise WireError("the credential is for another question")
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError):
        asked = None
    reply = json.dumps(on_query(proof.uid, asked), separators=(",", ":"))
    lines.send({"reply": reply, "credential": munge.encode(payload("reply", nonce, theirs, reply))})


class TcpQueryClient:
    """Asks a daemon on another host. Only an answer that comes from one of `trusted_uids` there is believed."""

    def __init__(self, address: str, munge: MungeAuth, trusted_uids: Collection[int], *, timeout_s: float = 10) -> None:
        self._address, self._munge = address, munge
        self._trusted, self._timeout_s = frozenset(trusted_uids), timeout_s

    def ask(self, op: str, **arguments: object) -> dict[str, Any]:
        """The daemon's answer. Raises DaemonUnavailableError, or what the daemon said (UsageError, SlurmextError)."""
        try:
            reply = self._exchange(json.dumps(question(op, arguments)))
        except (OSError, WireError, MungeError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise DaemonUnavailableError(
                f"slurmextd does not answer at {self._address} ({why}); does it run there, and munged here?"
            ) from error
        return answer_in(reply)

    def _exchange(self, text: str) -> dict[str, Any]:
        with (
            socket.create_connection(split_address(self._address), timeout=self._timeout_s) as connection,
            connection.makefile("rb") as reader,
        ):
            nonce = str(_message(reader.readline(4096)).get("nonce", ""))
            own = secrets.token_hex(16)
            if not NONCE.fullmatch(nonce):
                raise WireError("what listens there is no slurmextd")
            credential = self._munge.encode(payload("query", nonce, own, text))
            Lines(connection).send({"query": text, "nonce": own, "credential": credential})
            message = _message(reader.readline(MAX_REPLY_BYTES))
        if "reply" not in message:
            raise WireError(str(message.get("error", "it broke off")))
        reply = str(message["reply"])
        proof = self._munge.decode(str(message.get("credential", "")))
        if proof.uid not in self._trusted:
            raise WireError(f"the answer is from uid {proof.uid}, neither root nor SlurmUser")
        if not hmac.compare_digest(proof.payload, payload("reply", nonce, own, reply)):
            raise WireError("the answer is to another question")
        return json.loads(reply)


def _message(line: bytes) -> dict[str, Any]:
    message = json.loads(line) if line else {}
    if not isinstance(message, dict):
        raise WireError("what listens there is no slurmextd")
    return message
