"""Serves questions and requests about models over `run_dir/daemon.sock`: a JSON line in, a JSON line out.

Any user may connect; the kernel says who it is (SO_PEERCRED) and `service.query` shows each their own. `answer` serves
questions that came another way, with the uid that munge vouches for.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import socketserver
import struct
import threading
from collections import Counter
from typing import TYPE_CHECKING, Self

from slurmext.errors import SlurmextError, UsageError
from slurmext.service.models import ModelRequests, caller_of
from slurmext.service.query import Queries, Viewer

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

SOCKET_NAME = "daemon.sock"
MAX_REQUEST_BYTES = 64 * 1024
TIMEOUT_S = 5.0
MAX_CONNECTIONS = 32
MAX_PER_USER = 8

_log = logging.getLogger(__name__)


class QueryServer:
    """A thread that answers. `trusted_uids` (besides root) see every job. A context manager, or start and stop.

    `models` answers what it knows; everything else goes to `queries`.
    """

    def __init__(
        self, path: Path, queries: Queries, *, models: ModelRequests | None = None, trusted_uids: Collection[int] = ()
    ) -> None:
        self._path = path
        self._desk = _Desk(queries, models, frozenset({0, *trusted_uids}))
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def answer(self, uid: int, request: object) -> dict[str, object]:
        """The reply to a question `{"op": …, "args": {…}}` of this uid: `{"ok": true, "answer": …}`, or an error."""
        return self._desk.answer(uid, request)

    def start(self) -> None:
        """Listen. Raises SlurmextError when the socket cannot be made or another daemon answers on it."""
        _remove_stale(self._path)
        before = os.umask(0o111)  # mode 0666 from the first moment
        try:
            self._server = _Server(str(self._path), self._desk)
        except OSError as error:
            raise SlurmextError(f"{self._path} cannot be listened on: {error.strerror}") from error
        finally:
            os.umask(before)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="query", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and take the socket away."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._path.unlink(missing_ok=True)
        self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _remove_stale(path: Path) -> None:
    """A socket left by a daemon that died is in the way; one that answers belongs to a daemon that lives."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
        else:
            raise SlurmextError(f"another slurmextd answers on {path}; stop it, or give this one its own run_dir")


class _Desk:
    """Answers for whoever asks; a user who asks much at a time shuts out only himself."""

    def __init__(self, queries: Queries, models: ModelRequests | None, trusted: frozenset[int]) -> None:
        self._queries, self._models, self._trusted = queries, models, trusted
        self._open: Counter[int] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def place(self, uid: int) -> Iterator[bool]:
        """Whether there is room for one more of this user's questions; held while inside."""
        with self._lock:
            busy = self._open[uid] >= MAX_PER_USER or self._open.total() >= MAX_CONNECTIONS
            room = uid in self._trusted or not busy
            self._open[uid] += room
        try:
            yield room
        finally:
            with self._lock:
                self._open[uid] -= room
                self._open += Counter()  # forget those with none open

    def answer(self, uid: int, request: object) -> dict[str, object]:
        with self.place(uid) as room:
            return self.answer_seated(uid, request) if room else TOO_MANY

    def answer_seated(self, uid: int, request: object) -> dict[str, object]:
        op, arguments = (request.get("op"), request.get("args", {})) if isinstance(request, dict) else (None, None)
        if not isinstance(op, str) or not isinstance(arguments, dict):
            return _failure('a question is one JSON line, for example {"op": "jobs", "args": {}}', usage=True)
        try:
            if self._models is not None and self._models.knows(op):
                return {"ok": True, "answer": self._models.answer(caller_of(uid, self._trusted), op, arguments)}
            return {"ok": True, "answer": self._queries.answer(viewer_of(uid, self._trusted), op, arguments)}
        except SlurmextError as error:
            return _failure(str(error), usage=isinstance(error, UsageError))
        except Exception:  # noqa: BLE001  whatever a question did, the next one is answered
            _log.exception("question %r failed", op)
            return _failure("the daemon failed to answer; its log says why")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: str, desk: _Desk) -> None:
        self.desk = desk
        super().__init__(path, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """A client that goes away is nothing to report."""
        _log.debug("query connection failed", exc_info=True)


class _Handler(socketserver.StreamRequestHandler):
    timeout = TIMEOUT_S
    server: _Server

    def handle(self) -> None:
        uid = _peer_uid(self.connection)
        with self.server.desk.place(uid) as room:  # before the question is read: waiting for one takes a thread as well
            answer = self._answer(uid) if room else TOO_MANY
            with contextlib.suppress(OSError):
                self.wfile.write(json.dumps(answer, separators=(",", ":")).encode() + b"\n")

    def _answer(self, uid: int) -> dict[str, object]:
        try:
            line = self.rfile.readline(MAX_REQUEST_BYTES + 1)
        except OSError:
            return _failure(f"no question came within {TIMEOUT_S:g} s")
        if len(line) > MAX_REQUEST_BYTES:
            return _failure(f"the question is longer than {MAX_REQUEST_BYTES} bytes")
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        return self.server.desk.answer_seated(uid, request)


def _failure(message: str, *, usage: bool = False) -> dict[str, object]:
    return {"ok": False, "error": message, "usage": usage}


TOO_MANY = _failure("too many questions at once; try again in a moment")


def _peer_uid(connection: socket.socket) -> int:
    form = struct.Struct("3i")
    _, uid, _ = form.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size))
    return uid


def viewer_of(uid: int, trusted: Collection[int] = (0,)) -> Viewer:
    """The viewer behind a uid. A uid without a name owns nothing and sees nothing but the queues."""
    caller = caller_of(uid, trusted)
    groups = frozenset[str]() if caller.sees_all else frozenset(caller.groups)
    return Viewer(user=caller.user, groups=groups, sees_all=caller.sees_all)
