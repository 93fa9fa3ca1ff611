"""What both ends of the agent's connection speak.

    server: {"slurmext": 1, "nonce": "<hex>"}
    agent:  {"node": "n1", "nonce": "<hex>", "credential": "MUNGE:…"}     over b"slurmext-agent/1 n1 <server's> <own>"
    server: {"ok": true, "credential": "MUNGE:…"}                  over b"slurmext-controller/1 n1 <server's> <agent's>"
    agent:  {"seq": 1, "boot": "<uuid>", "node": "n1", "event": "…", "at_s": 1.0, …, "sent_s": 2.0}
    server: {"ack": 1, "failures": "2.5/1.2e7"}
    server: {"end": {"job_id": 12, "started_before_s": 1.0}}        at any time after the agent's first event

What the server may order is in `orders`. Credentials cover both nonces, so neither side's can be replayed; munge gives
the uid on the other side.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from slurmext.errors import SlurmextError

VERSION = 1
MAX_LINE_BYTES = 1 << 18
"""An inventory of sixteen GPUs with what each can be cut into takes about 40 kB."""
HANDSHAKE_S = 10.0
NONCE = re.compile(r"[0-9a-f]{32,64}")
NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
EVENT = re.compile(r"[a-z][a-z0-9_]{0,63}")


class WireError(SlurmextError):
    """The other end said something that does not belong here; the connection is closed and tried again."""


_BOOT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEvent:
    """Something that happened on a node. (node, boot, seq) is unique; the same event may arrive more than once.

    `event` is `hello`, `job_start`, `job_end`, `checkpoint`, `gpu_activity`, `gpus`, `gpu_use` or one of
    `slice_reserved`, `slice_made`, `slice_missed`, `slice_freed`, `slice_sample`. `uid` and, of a checkpoint, `detail`
    come from the job's owner as checked by the agent; `detail` is data, never a path to open as root. `at_s` is by the
    controller's clock, and `behind_s` what was added to the node's for that.
    """

    node: str
    boot: str
    seq: int
    event: str
    at_s: float
    job_id: str | None = None
    uid: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])
    behind_s: float = 0.0


def sent(line: bytes, now_s: float) -> bytes:
    """An event's line, with the time it is sent at."""
    return line.rstrip().removesuffix(b"}") + b', "sent_s": %.6f}\n' % now_s


def parse_event(line: Mapping[str, Any], node: str, behind_s: Callable[[float], float] = lambda _: 0.0) -> AgentEvent:
    """An event of an agent that proved to be `node`'s. Raises WireError.

    `behind_s`: how far the node's clock is behind, given when it says the line was sent.
    """
    rest = dict(line)
    sent_s = rest.pop("sent_s", None)  # agents of earlier releases do not say it
    seq, boot, event, at_s = (rest.pop(key, None) for key in ("seq", "boot", "event", "at_s"))
    claimed, job_id, uid = rest.pop("node", None), rest.pop("job_id", None), rest.pop("uid", None)
    good = (
        _count(seq) and isinstance(boot, str) and len(boot) <= _BOOT
        and isinstance(event, str) and EVENT.fullmatch(event)
        and isinstance(at_s, int | float) and claimed == node and (job_id is None or _count(job_id))
        and (uid is None or _count(uid))
    )  # fmt: skip
    if not good:
        raise WireError(f"node {node} sent no usable event: {str(dict(line))[:200]}")
    behind = behind_s(float(sent_s)) if isinstance(sent_s, int | float) else 0.0
    return AgentEvent(node=node, boot=boot, seq=seq, event=event, at_s=float(at_s) + behind, behind_s=behind,
                      job_id=None if job_id is None else str(job_id), uid=uid, detail=rest)  # fmt: skip


def agent_payload(node: str, server_nonce: str, agent_nonce: str) -> bytes:
    """What the agent's credential is over."""
    return f"slurmext-agent/{VERSION} {node} {server_nonce} {agent_nonce}".encode()


def server_payload(node: str, server_nonce: str, agent_nonce: str) -> bytes:
    """What the controller's credential is over."""
    return f"slurmext-controller/{VERSION} {node} {server_nonce} {agent_nonce}".encode()


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def keep_alive(connection: socket.socket) -> None:
    """Notice within a minute a peer that vanished without a word, also while it owes us an acknowledgement of bytes
    sent (TCP_USER_TIMEOUT, tcp(7): keepalive probes wait until then), and send small lines at once.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3),
                          (socket.TCP_USER_TIMEOUT, 60_000), (socket.TCP_NODELAY, 1)):  # fmt: skip
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


@contextmanager
def hung_up_after(connection: socket.socket, limit_s: float) -> Iterator[None]:
    """Hang up on a peer that takes longer for all of it. A socket's own timeout begins anew with every byte, so a
    stranger who sends one now and then would hold a place that others need.
    """

    def hang_up() -> None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(limit_s, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Lines:
    """JSON objects, one to a line, over a connected socket. Timeouts are the socket's."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self._sending = threading.Lock()

    @property
    def waiting(self) -> bool:
        """Whether a whole line has already been read from the socket."""
        return b"\n" in self._buffer

    def send(self, message: Mapping[str, Any] | bytes) -> None:
        """Send an object, or a line that already is one."""
        line = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
        with self._sending:
            self._connection.sendall(line)

    def greeting(self, limit_s: float) -> dict[str, Any]:
        """What a peer that nobody knows yet says first, all of it within `limit_s`; empty when it says nothing."""
        with hung_up_after(self._connection, limit_s):
            return self.receive() or {}

    def receive(self) -> dict[str, Any] | None:
        """The next object, None at the end. Raises WireError for anything else, TimeoutError."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise WireError(f"a line of more than {MAX_LINE_BYTES} bytes")
            chunk = self._connection.recv(65536)
            if not chunk:
                return None
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise WireError(f"not a JSON line: {line[:60]!r}") from error
        if not isinstance(message, dict):
            raise WireError(f"not a JSON object: {line[:60]!r}")
        return message


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
