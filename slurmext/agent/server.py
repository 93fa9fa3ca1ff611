"""The agent's unix sockets: one request line, one reply line, and the kernel's word on who asks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 65536
MAX_DESCRIPTORS = 64
"""Files that a request may hand in; the handler gets them as `_fds` and they are closed when it has answered."""
REQUEST_S = 2.0
"""A peer that has not sent its whole request by then is hung up on."""
CROWDED_S = 0.0002
BACKLOG = 128
"""A user's flood fills the line at most this deep, and each turned away takes CROWDED_S: others wait some 50 ms."""
_UCRED = struct.Struct("3i")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end, as the kernel says (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int
    gid: int


class UnixServer:
    """Serves one unix socket with a bounded number of threads.

    One user can hold at most `per_uid` connections, so that a user who opens many and sends nothing (or garbage)
    delays nobody else. Hooks of root have a socket of their own, which users cannot even connect to.
    """

    def __init__(
        self,
        path: Path,
        *,
        mode: int,
        answer: Callable[[Peer, Mapping[str, Any]], Mapping[str, Any]],
        workers: int = 16,
        per_uid: int = 4,
    ) -> None:
        self._path = path
        self._answer = answer
        self._workers = workers
        self._per_uid = per_uid
        self._lock = threading.Lock()
        self._busy: Counter[int] = Counter()
        self._stopping = False
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix=path.stem)
        self._listener = _listen(path, mode)
        self._inode = path.stat().st_ino
        self._thread = threading.Thread(target=self._accept, name=path.name, daemon=True)

    def start(self) -> None:
        """Answer in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Stop answering; hooks go on without us."""
        self._stopping = True
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._stopping:
                    return
                log.warning("%s: accept: %s", self._path, error)
                time.sleep(0.1)
                continue
            try:
                pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
                if self._enter(uid):
                    self._pool.submit(self._serve, connection, Peer(pid=pid, uid=uid, gid=gid))
                    continue
                connection.setblocking(False)  # noqa: FBT003
                connection.send(b'{"ok": false, "error": "too many connections at once", "crowded": true}\n')
            except (OSError, RuntimeError):
                pass
            connection.close()
            time.sleep(CROWDED_S)  # a flood must not take the interpreter from the hooks

    def _enter(self, uid: int) -> bool:
        with self._lock:
            limit = self._workers if uid == 0 else self._per_uid
            if self._busy[uid] >= limit or self._busy.total() >= self._workers:
                return False
            self._busy[uid] += 1
            return True

    def _serve(self, connection: socket.socket, peer: Peer) -> None:
        try:
            with connection:
                descriptors: list[int] = []
                try:
                    request = _read_request(connection, time.monotonic() + REQUEST_S, descriptors)
                    reply = {"ok": False, "error": "not a request"} if request is None else self._answer(peer, request)
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)
                connection.settimeout(REQUEST_S)
                _send_reply(connection, dict(reply))
        except OSError:
            pass  # the peer went away or dawdled; hooks log that on their side
        except Exception:
            log.exception("%s: request of uid %d", self._path, peer.uid)
        finally:
            with self._lock:
                self._busy[peer.uid] -= 1
                if not self._busy[peer.uid]:
                    del self._busy[peer.uid]


def _send_reply(connection: socket.socket, reply: dict[str, Any]) -> None:
    """The reply line; descriptors of ours that go with it (`_fds`) are closed here afterwards."""
    descriptors: list[int] = reply.pop("_fds", [])
    try:
        line = json.dumps(reply).encode() + b"\n"
        if descriptors:
            socket.send_fds(connection, [line[:1]], descriptors)
            line = line[1:]
        connection.sendall(line)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _read_request(connection: socket.socket, deadline_s: float, descriptors: list[int]) -> dict[str, Any] | None:
    received = b""
    while not received.endswith(b"\n"):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or len(received) > MAX_REQUEST_BYTES:
            return None
        connection.settimeout(left_s)
        chunk, handed, _, _ = socket.recv_fds(connection, 65536, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        descriptors += handed
        if not chunk or len(descriptors) > MAX_DESCRIPTORS:
            return None
        received += chunk
    try:
        request = json.loads(received)
    except (ValueError, RecursionError):
        return None
    return {**request, "_fds": descriptors} if isinstance(request, dict) else None


def _listen(path: Path, mode: int) -> socket.socket:
    """Bind beside the place and rename: at `path` there is never a socket with other permissions or no listener."""
    draft = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(draft))
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    draft.chmod(mode)
    draft.replace(path)
    return listener
