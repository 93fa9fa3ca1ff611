"""Copies from one node's agent to another's, over TCP. munge says to each side who is on the other.

    server: {"slurmext_peer": 1, "nonce": "<hex>"}
    client: {"node": "n1", "nonce": "<hex>", "credential": "MUNGE:…"}  over b"slurmext-peer/1 n1 <server's> <own>"
    server: {"ok": true, "credential": "MUNGE:…"}                 over b"slurmext-peer-server/1 n1 <server's> <own>"
    client: {"put": {"job_id", "uid", "name", "file", "size", "only"}} and the bytes          server: {"ok": true}
    client: {"get": {"job_id", "uid"}}, of certain files with "name", "files"
    server: {"files": [{"name", "file", "size", "only"}]} and the bytes of each

Only root and SlurmUser are heard. What comes is data: a checkpoint's own checksums tell whether it is whole.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import secrets
import socket
import threading
from typing import TYPE_CHECKING, Any

from slurmext.adapters.munge import MungeAuth, MungeError
from slurmext.adapters.tcp.wire import HANDSHAKE_S, NODE, NONCE, WireError, hung_up_after, keep_alive
from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from slurmext.agent.copies.store import CopyStore, Kept

log = logging.getLogger(__name__)

VERSION = 1
IDLE_S = 60.0
CHUNK = 4 << 20
MAX_LINE = 1 << 20
MAX_FILES = 10_000
MAX_AT_ONCE = 16


class Channel:
    """Lines and bytes over one socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = connection.makefile("rb", buffering=1 << 20)

    def say(self, message: Mapping[str, Any]) -> None:
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> dict[str, Any] | None:
        """The next line, None at the end. Raises WireError."""
        line = self._reader.readline(MAX_LINE)
        if not line:
            return None
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise WireError(f"not a JSON line: {line[:60]!r}") from error
        if not isinstance(message, dict):
            raise WireError(f"not a JSON object: {line[:60]!r}")
        return message

    def send_file(self, path: Path, size: int) -> None:
        """The first `size` bytes of a file."""
        with path.open("rb") as file:
            if self._connection.sendfile(file, 0, size) < size:
                raise WireError(f"{path.name} became shorter")

    def receive_file(self, path: Path, size: int) -> None:
        """The next `size` bytes, into a new file."""
        buffer = memoryview(bytearray(min(CHUNK, size) or 1))
        with path.open("xb", buffering=0) as file:
            left = size
            while left:
                count = self._reader.readinto(buffer[: min(left, len(buffer))])
                if not count:
                    raise WireError("the connection broke off")
                file.write(buffer[:count])
                left -= count


class PeerServer:
    """Takes and gives copies on a TCP port; `port` is the one in use."""

    def __init__(self, listen: tuple[str, int], store: CopyStore, munge: MungeAuth, uids: Collection[int]) -> None:
        self._store, self._munge, self._uids = store, munge, frozenset(uids)
        self._slots = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._stopping = False
        try:
            self._listener = socket.create_server(listen, backlog=128)
        except OSError as error:
            # Several agents of one host, as in tests: the controller tells the others where each listens.
            log.info("port %d is taken (%s): takes another", listen[1], error.strerror)
            self._listener = socket.create_server((listen[0], 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.on_put: Callable[[int, str], None] = lambda _job_id, _name: None
        """Called with job id and checkpoint when a file of it has come."""

    def start(self) -> None:
        """Serve in the background."""
        threading.Thread(target=self._accept, name="copies", daemon=True).start()

    def stop(self) -> None:
        """Serve no more."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopping:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._stopping:
                    return
                threading.Event().wait(0.1)
                continue
            if not self._slots.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="copies-peer", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(HANDSHAKE_S)
                keep_alive(connection)
                channel = Channel(connection)
                with hung_up_after(connection, HANDSHAKE_S):
                    node = self._greet(channel)
                connection.settimeout(IDLE_S)
                while (message := channel.hear()) is not None:
                    if isinstance(asked := message.get("put"), dict):
                        self._take(channel, asked)
                    elif isinstance(asked := message.get("get"), dict):
                        self._give(channel, asked)
                    else:
                        raise WireError(f"{node} asked {str(message)[:100]}")
        except (OSError, SlurmextError, ValueError, TypeError, KeyError) as error:
            log.info("copies: %s", error)
        finally:
            self._slots.release()

    def _greet(self, channel: Channel) -> str:
        nonce = secrets.token_hex(16)
        channel.say({"slurmext_peer": VERSION, "nonce": nonce})
        answer = channel.hear() or {}
        node, theirs, credential = (str(answer.get(key, "")) for key in ("node", "nonce", "credential"))
        if not NODE.fullmatch(node) or not NONCE.fullmatch(theirs) or not credential.startswith("MUNGE:"):
            raise WireError("who connects is no agent")
        proof = self._munge.decode(credential)
        if proof.uid not in self._uids:
            raise WireError(f"uid {proof.uid} is neither root nor SlurmUser")
        if not hmac.compare_digest(proof.payload, _payload("peer", node, nonce, theirs)):
            raise WireError("the credential is for another connection")
        channel.say({"ok": True, "credential": self._munge.encode(_payload("peer-server", node, nonce, theirs))})
        return node

    def _take(self, channel: Channel, asked: Mapping[str, Any]) -> None:
        job_id, uid, size = int(asked["job_id"]), int(asked["uid"]), int(asked["size"])
        name, file = str(asked["name"]), str(asked["file"])
        try:
            path = self._store.place(job_id, uid, name, file, size, only=asked.get("only") is True)
        except SlurmextError as error:
            channel.say({"ok": False, "error": str(error)})
            return
        channel.say({"ok": True})
        try:
            path.unlink(missing_ok=True)
            channel.receive_file(path, size)
            self._store.commit(uid, path)
        except BaseException:
            self._store.abandon(uid, path)
            raise
        self.on_put(job_id, name)
        channel.say({"ok": True})

    def _give(self, channel: Channel, asked: Mapping[str, Any]) -> None:
        files = self._store.files(int(asked["job_id"]), int(asked["uid"]))
        if isinstance(only := asked.get("files"), list):
            # Newest first: the name that is not given is that of the first.
            name = asked.get("name") or next((kept.name for kept in files if kept.file in only), "")
            files = [kept for kept in files if kept.name == name and kept.file in only]
        files = files[:MAX_FILES]
        listed = [{"name": one.name, "file": one.file, "size": one.size, "only": one.only} for one in files]
        channel.say({"files": listed})
        for kept in files:
            channel.send_file(kept.path, kept.size)


class Peer:
    """The agent of another node, at (host, port). Raises WireError, MungeError and OSError."""

    def __init__(self, address: tuple[str, int], *, node: str, munge: MungeAuth, uids: Collection[int]) -> None:
        self._connection = socket.create_connection(address, timeout=HANDSHAKE_S)
        try:
            keep_alive(self._connection)
            self._channel = Channel(self._connection)
            self._greet(node, munge, uids)
            self._connection.settimeout(IDLE_S)
        except BaseException:
            self._connection.close()
            raise

    def put(self, job_id: int, uid: int, kept: Kept) -> None:
        """Give it a file. Raises WireError when it does not take it."""
        asked = {"job_id": job_id, "uid": uid, "name": kept.name, "file": kept.file, "size": kept.size}
        self._channel.say({"put": {**asked, "only": kept.only}})
        self._must()
        self._channel.send_file(kept.path, kept.size)
        self._must()

    def get(
        self, job_id: int, uid: int, store: CopyStore, *, name: str | None = None, files: Collection[str] = ()
    ) -> int:
        """Take over all it has of a job, or of these files of the checkpoint `name` (empty: of the newest with one).

        Returns how many bytes that is.
        """
        wanted = {} if name is None else {"name": name, "files": sorted(files)}
        self._channel.say({"get": {"job_id": job_id, "uid": uid, **wanted}})
        listed = (self._channel.hear() or {}).get("files", [])
        total = 0
        for entry in listed:
            size = int(entry["size"])
            only = entry.get("only") is True
            path = store.place(job_id, uid, str(entry["name"]), str(entry["file"]), size, only=only)
            try:
                path.unlink(missing_ok=True)
                self._channel.receive_file(path, size)
                store.commit(uid, path)
            except BaseException:
                store.abandon(uid, path)
                raise
            total += size
        return total

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def __enter__(self) -> Peer:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _must(self) -> None:
        answer = self._channel.hear() or {}
        if answer.get("ok") is not True:
            raise WireError(f"the other agent did not take it: {answer.get('error', 'it hung up')}")

    def _greet(self, node: str, munge: MungeAuth, uids: Collection[int]) -> None:
        theirs = str((self._channel.hear() or {}).get("nonce", ""))
        if not NONCE.fullmatch(theirs):
            raise WireError("what listens there is no agent")
        own = secrets.token_hex(16)
        self._channel.say({"node": node, "nonce": own, "credential": munge.encode(_payload("peer", node, theirs, own))})
        answer = self._channel.hear() or {}
        proof = munge.decode(str(answer.get("credential", "")))
        if proof.uid not in uids:
            raise MungeError(f"what listens there runs as uid {proof.uid}, not as root or SlurmUser")
        if not hmac.compare_digest(proof.payload, _payload("peer-server", node, theirs, own)):
            raise WireError("the other agent proved itself for another connection")


def _payload(kind: str, node: str, server_nonce: str, client_nonce: str) -> bytes:
    return f"slurmext-{kind}/{VERSION} {node} {server_nonce} {client_nonce}".encode()
