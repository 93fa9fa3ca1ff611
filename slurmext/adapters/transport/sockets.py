"""The transport over TCP sockets: sendfile from the staged file, recv_into the staged file, a thread for each end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from slurmext.adapters.tcp.wire import Lines, WireError, keep_alive, split_address
from slurmext.adapters.transport.framing import (
    BEAT,
    DATA,
    HEAD,
    MOST_TEXT,
    SILENCE_S,
    STUCK_S,
    TEXT,
    Filling,
    checked_run,
    fill_exactly,
    parse_request,
    requests_for,
    set_timeouts,
)
from slurmext.adapters.transport.handshake import HANDSHAKE_S, Identity, small_lines
from slurmext.errors import SlurmextError
from slurmext.staging.manifest import CHUNK_BYTES
from slurmext.staging.store.staged import StagedModel
from slurmext.staging.transport import Inlet, LinkLost, Outlet, Peer, Refused, Request, Run

log = logging.getLogger(__name__)

_MAX_PACING_RATE: Final = 47  # SO_MAX_PACING_RATE, socket(7); TCP paces itself, whatever the queueing discipline
_TCP_NOTSENT_LOWAT: Final = 25  # tcp(7)
_MOST_UNSENT: Final = 4 << 20
_MOST_STRANGERS: Final = 64
_MOST_MANIFEST: Final = MOST_TEXT


class SocketInlet:
    """The receiver's end."""

    def __init__(self, connection: socket.socket, lines: Lines, peer: Peer, staged: StagedModel) -> None:
        self._connection = connection
        self._filling = Filling(connection)
        self._lines = lines
        self._peer = peer
        self._manifest = staged.manifest
        self._head = memoryview(bytearray(HEAD.size))
        self._scrap = memoryview(bytearray(CHUNK_BYTES))

    @property
    def peer(self) -> Peer:
        return self._peer

    def want(self, chunks: Sequence[int], *, drop: bool = False) -> None:
        try:
            for line in requests_for(chunks, drop=drop):
                self._lines.send(line)
        except OSError as error:
            raise LinkLost(f"{self._peer.node}: {error}") from error

    def receive(self) -> Run | int:
        kind, number, count, due = self.frame()
        if kind == DATA:
            return checked_run(number, count, due, self._manifest)
        if kind == BEAT:
            return number
        raise LinkLost(f"{self._peer.node} sent {kind!r}, which is no frame")

    def frame(self) -> tuple[bytes, int, int, int]:
        """The next frame's head. Raises LinkLost."""
        self._filling.fill(self._head)
        return HEAD.unpack(self._head)

    def fill(self, index: int, place: memoryview | None) -> None:
        length = self._manifest.lengths[index]
        self._filling.fill(self._scrap[:length] if place is None else place)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()


class SocketOutlet:
    """The sender's end. It has descriptors of its own, so that an eviction does not pull the files from under it."""

    def __init__(self, connection: socket.socket, lines: Lines, node: str, staged: StagedModel, cap_bps: Any) -> None:
        self._connection = connection
        self._lines = lines
        self._node = node
        self._manifest = staged.manifest
        self._asked_bps = float(cap_bps) if isinstance(cap_bps, int | float) and cap_bps > 0 else None
        self._descriptors = [os.dup(staged.descriptor(file)) for file in range(len(staged.manifest.files))]
        # What waits in the kernel behind a slow link is not seen as due, and would be sent twice after a change.
        connection.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _MOST_UNSENT)
        self.pace(None)

    @property
    def node(self) -> str:
        return self._node

    @property
    def asked_bps(self) -> float | None:
        """How fast the receiver wants it at most."""
        return self._asked_bps

    def requests(self) -> Request | None:
        while True:
            try:
                said = self._lines.receive()
            except BlockingIOError:
                continue  # a receiver that is content says nothing for long
            except (OSError, WireError) as error:
                raise LinkLost(f"{self._node}: {error}") from error
            return None if said is None else parse_request(said, self._manifest.chunk_count)

    def push(self, run: Run) -> None:
        first = self._manifest.chunk(run.first)
        last = self._manifest.chunk(run.first + run.count - 1)
        offset, end = first.offset, last.offset + last.length
        try:
            self._send(HEAD.pack(DATA, run.first, run.count, run.due), socket.MSG_MORE)
            while offset < end:
                sent = os.sendfile(self._connection.fileno(), self._descriptors[first.file], offset, end - offset)
                if not sent:
                    raise LinkLost(f"{self._manifest.files[first.file].name} became shorter")
                offset += sent
        except OSError as error:
            raise LinkLost(f"{self._node}: {error}") from error

    def beat(self, ready: int, kind: bytes = BEAT) -> None:
        try:
            self._send(HEAD.pack(kind, ready, 0, 0))
        except OSError as error:
            raise LinkLost(f"{self._node}: {error}") from error

    def pace(self, rate_bps: float | None) -> None:
        rates = [rate for rate in (rate_bps, self._asked_bps) if rate is not None]
        bytes_per_s = min((1 << 32) - 1, int(min(rates) / 8)) if rates else (1 << 32) - 1
        self._connection.setsockopt(socket.SOL_SOCKET, _MAX_PACING_RATE, struct.pack("I", bytes_per_s))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)

    def _send(self, content: bytes, flags: int = 0) -> None:
        while content:
            content = content[self._connection.send(content, flags) :]


class SocketTransport:
    """Listens at `listen` (HOST:PORT, port 0 for any) once `serve` was called."""

    def __init__(self, listen: str, identity: Identity) -> None:
        self._identity = identity
        host, port = split_address(listen)
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._listener = socket.create_server((host, port), family=family, backlog=256)
        except OSError as error:
            raise SlurmextError(f"cannot listen on {listen} for other agents: {error.strerror}") from error
        self._address = self._listener.getsockname()[:2]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._strangers = threading.BoundedSemaphore(_MOST_STRANGERS)
        self._stopping = False

    @property
    def address(self) -> tuple[str, int]:
        return self._address

    def serve(
        self,
        find: Callable[[str, str], StagedModel | None],
        on_link: Callable[[Outlet, StagedModel], None],
        manifest_of: Callable[[str], bytes | None],
    ) -> None:
        def accept() -> None:
            while not self._stopping:
                try:
                    connection, address = self._listener.accept()
                except OSError as error:
                    if self._stopping:
                        return
                    log.warning("staging: accept: %s", error)
                    time.sleep(0.1)
                    continue
                if not self._strangers.acquire(blocking=False):
                    connection.close()
                    continue
                arguments = (connection, f"{address[0]}:{address[1]}", find, on_link, manifest_of)
                threading.Thread(target=self._serve, args=arguments, name="staging-serve", daemon=True).start()

        threading.Thread(target=accept, name="staging-accept", daemon=True).start()

    def connect(self, peer: Peer, staged: StagedModel, *, cap_bps: float | None = None) -> Inlet:
        connection, lines = self._dial(peer)
        try:
            return self.opened(connection, lines, peer, staged, {"open": staged.fingerprint, "cap_bps": cap_bps})
        except BaseException:
            connection.close()
            raise

    def opened(
        self, connection: socket.socket, lines: Lines, peer: Peer, staged: StagedModel, question: dict[str, Any]
    ) -> Inlet:
        """The receiver's end over a connection whose peer has proved itself. Raises LinkLost, Refused."""
        self.ask(connection, lines, question, peer)
        set_timeouts(connection, receive_s=SILENCE_S, send_s=STUCK_S)
        return SocketInlet(connection, lines, peer, staged)

    def accepted(
        self, connection: socket.socket, lines: Lines, node: str, staged: StagedModel, said: Mapping[str, Any]
    ) -> tuple[Outlet, dict[str, Any]]:
        """The sender's end for a receiver that has proved itself, and what it is told. Raises LinkLost."""
        return SocketOutlet(connection, lines, node, staged, said.get("cap_bps")), {}

    def fetch_manifest(self, peer: Peer, fingerprint: str) -> bytes:
        connection, lines = self._dial(peer)
        with connection:
            return self.ask(connection, lines, {"manifest": fingerprint}, peer)

    def stop(self) -> None:
        self._stopping = True
        with self._lock:
            for connection in (self._listener, *self._open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _dial(self, peer: Peer) -> tuple[socket.socket, Lines]:
        try:
            connection = socket.create_connection(split_address(peer.address), timeout=HANDSHAKE_S)
        except OSError as error:
            raise LinkLost(f"{peer.node} ({peer.address}): {error}") from error
        try:
            keep_alive(connection)
            lines = small_lines(connection)
            self._identity.prove(lines, peer)
        except BaseException:
            connection.close()
            raise
        return connection, lines

    def ask(self, connection: socket.socket, lines: Lines, question: dict[str, Any], peer: Peer) -> bytes:
        """The peer's answer. Raises LinkLost, Refused."""
        try:
            set_timeouts(connection, receive_s=2 * HANDSHAKE_S, send_s=HANDSHAKE_S)
            lines.send(question)
            head = memoryview(bytearray(HEAD.size))
            fill_exactly(connection, head, silence_s=2 * HANDSHAKE_S)
            kind, refused, length, _ = HEAD.unpack(head)
            if kind != TEXT or length > _MOST_MANIFEST:
                raise LinkLost(f"{peer.node} did not answer")
            answer = memoryview(bytearray(length))
            fill_exactly(connection, answer)
        except OSError as error:
            raise LinkLost(f"{peer.node}: {error}") from error
        if refused:
            raise Refused(f"{peer.node}: {bytes(answer[:200]).decode(errors='replace')}")
        return bytes(answer)

    def _serve(
        self,
        connection: socket.socket,
        name: str,
        find: Callable[[str, str], StagedModel | None],
        on_link: Callable[[Outlet, StagedModel], None],
        manifest_of: Callable[[str], bytes | None],
    ) -> None:
        with self._lock:
            self._open.add(connection)
        try:
            with connection:
                try:
                    keep_alive(connection)
                    lines = small_lines(connection)
                    node = self._identity.answer(lines)
                finally:
                    self._strangers.release()
                set_timeouts(connection, receive_s=HANDSHAKE_S, send_s=STUCK_S)
                said = lines.receive() or {}
                if "manifest" in said:
                    self._reply(connection, manifest_of(str(said["manifest"])))
                    return
                staged = find(node, str(said.get("open", "")))
                if staged is None:
                    self._reply(connection, None)
                    return
                outlet, told = self.accepted(connection, lines, node, staged, said)
                try:
                    self._reply(connection, json.dumps(told).encode())
                    on_link(outlet, staged)
                finally:
                    outlet.close()
        except (SlurmextError, OSError) as error:
            log.info("staging: %s: %s", name, error)
        except Exception:
            log.exception("staging: %s", name)
        finally:
            with self._lock:
                self._open.discard(connection)

    @staticmethod
    def _reply(connection: socket.socket, content: bytes | None) -> None:
        answer = json.dumps("this model is not here").encode() if content is None else content
        connection.sendall(HEAD.pack(TEXT, int(content is None), len(answer), 0) + answer)
