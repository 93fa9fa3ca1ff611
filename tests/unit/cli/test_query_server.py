"""Questions over slurmextd's socket and from other hosts: who asks, what a hostile client cannot do."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from slurmext.adapters.munge import Credential, MungeAuth, MungeError
from slurmext.adapters.query_client import DaemonUnavailableError, QueryClient
from slurmext.adapters.tcp.agent_server import AgentServer
from slurmext.adapters.tcp.queries import TcpQueryClient
from slurmext.daemon import query_server
from slurmext.daemon.query_server import QueryServer, viewer_of
from slurmext.errors import SlurmextError, UsageError
from slurmext.service.query import Queries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def server(queries: Queries, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "daemon.sock"
    with QueryServer(path, queries):
        yield path


def test_root_asks_over_the_socket_and_everyone_may_connect(server: Path) -> None:
    """Mode 0666, and root sees all."""
    assert stat.S_IMODE(server.stat().st_mode) == 0o666
    assert len(QueryClient(server).ask("jobs")["jobs"]) == 6
    assert QueryClient(server).ask("status")["agents"] == ["n1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_the_kernel_says_who_asks(queries: Queries) -> None:
    """Another uid gets no jobs of others, whatever it claims."""
    folder = Path(tempfile.mkdtemp(prefix="slurmext-query-"))  # pytest's own folders are closed to other users
    folder.chmod(0o755)
    code = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        's.sendall(b\'{"op": "jobs", "args": {}, "uid": 0}\\n\'); print(s.makefile().readline())\n'
    )
    with QueryServer(folder / "s", queries):
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder / "s")], capture_output=True, text=True, check=True
        )
    folder.rmdir()
    assert json.loads(done.stdout) == {"ok": True, "answer": {"jobs": []}}


def test_errors_come_back_as_the_same_kind(server: Path) -> None:
    """Usage stays usage."""
    client = QueryClient(server)
    with pytest.raises(UsageError, match="unknown; known: jobs"):
        client.ask("dance")
    with pytest.raises(SlurmextError, match="no job '999'"):
        client.ask("job_explain", job="999")


@pytest.mark.parametrize(
    "line", [b"\n", b"[]\n", b"{}\n", b'{"op": 3}\n', b'{"op": "jobs", "args": 3}\n', b"\xff\n", b"[" * 20000 + b"\n"]
)
def test_garbage_is_answered_with_an_error(server: Path, line: bytes) -> None:
    """And the server goes on."""
    assert send(server, line)["ok"] is False
    assert QueryClient(server).ask("queues")["version"] == 1


def test_an_endless_line_is_cut_off(server: Path) -> None:
    """64 KiB are enough for a question."""
    assert "longer than" in str(send(server, b"x" * (query_server.MAX_REQUEST_BYTES + 10))["error"])


def send(path: Path, line: bytes) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(line)
        return json.loads(connection.makefile("rb").readline())


def test_a_user_who_holds_connections_shuts_out_only_himself(queries: Queries, tmp_path: Path) -> None:
    """Places are counted per user; root always gets in."""
    with QueryServer(tmp_path / "s", queries) as server:
        inner = server._desk
        held = [inner.place(1000) for _ in range(query_server.MAX_PER_USER)]
        assert all(place.__enter__() for place in held)
        with inner.place(1000) as room:
            assert not room
        with inner.place(1001) as room:
            assert room
        with inner.place(0) as room:
            assert room
        for place in held:
            place.__exit__(None, None, None)
        with inner.place(1000) as room:
            assert room


def test_many_ask_at_once(server: Path) -> None:
    """Threads answer in parallel."""
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(len(QueryClient(server).ask("jobs")["jobs"]))) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [6] * 20


def test_a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not(queries: Queries, tmp_path: Path) -> None:
    """Kill -9 leaves the file behind."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with QueryServer(path, queries), pytest.raises(SlurmextError, match="another slurmextd"):
        QueryServer(path, queries).start()
    assert not path.exists()


def test_a_client_without_a_daemon_says_so(tmp_path: Path) -> None:
    """And how to look."""
    with pytest.raises(DaemonUnavailableError, match="systemctl status slurmextd"):
        QueryClient(tmp_path / "none").ask("jobs")


def test_a_uid_without_a_name_owns_nothing() -> None:
    """It can still look at queues."""
    viewer = viewer_of(4_000_000_000)
    assert (viewer.sees_all, viewer.user) == (False, "uid 4000000000")


class OwnMunge(MungeAuth):
    """Credentials without munged: who makes one is written into it; each is accepted once."""

    def __init__(self, uid: int, used: set[str]) -> None:
        super().__init__(munge=Path("/"), unmunge=Path("/"))
        object.__setattr__(self, "uid", uid)
        object.__setattr__(self, "used", used)

    def encode(self, payload: bytes) -> str:
        return f"MUNGE:{self.uid}:{payload.decode()}"

    def decode(self, credential: str) -> Credential:
        if credential in self.used or not credential.startswith("MUNGE:"):
            raise MungeError("Replayed credential")
        self.used.add(credential)
        _, uid, payload = credential.split(":", 2)
        return Credential(uid=int(uid), payload=payload.encode())


@pytest.fixture
def remote(queries: Queries, tmp_path: Path) -> Iterator[Callable[..., TcpQueryClient]]:
    """`remote(uid=…)`: a client of that user on another host; `server_uid=` who answers there."""
    used: set[str] = set()
    started: list[AgentServer] = []
    desk = QueryServer(tmp_path / "s", queries)

    def make(uid: int, *, server_uid: int = 0) -> TcpQueryClient:
        server = AgentServer("127.0.0.1:0", OwnMunge(server_uid, used), {0}, lambda _: None, on_query=desk.answer)
        server.start()
        started.append(server)
        return TcpQueryClient(f"127.0.0.1:{server.port}", OwnMunge(uid, used), {0}, timeout_s=5)

    yield make
    for server in started:
        server.stop()


def test_on_a_login_host_munge_says_who_asks(remote: Callable[..., TcpQueryClient]) -> None:
    """Root sees all, another uid its own; errors keep their kind."""
    assert len(remote(0).ask("jobs")["jobs"]) == 6
    assert remote(65534).ask("jobs")["jobs"] == []
    with pytest.raises(UsageError):
        remote(65534).ask("policy")


def test_an_answer_from_anyone_but_the_controller_is_not_believed(remote: Callable[..., TcpQueryClient]) -> None:
    """A user who listens on the port on some host cannot feed answers to root."""
    with pytest.raises(DaemonUnavailableError, match="the answer is from uid 1000"):
        remote(0, server_uid=1000).ask("jobs")


def test_a_question_that_was_changed_on_the_way_is_not_answered(remote: Callable[..., TcpQueryClient]) -> None:
    """The credential is over the question itself."""
    client = remote(0)
    munge = client._munge
    client._munge = SimpleNamespace(encode=lambda _: munge.encode(b"slurmext-query/1 other"), decode=munge.decode)
    with pytest.raises(DaemonUnavailableError):
        client.ask("jobs")


def test_no_daemon_at_the_address_is_said_at_once() -> None:
    """With the address."""
    with pytest.raises(DaemonUnavailableError, match=r"127\.0\.0\.1:1"):
        TcpQueryClient("127.0.0.1:1", OwnMunge(0, set()), {0}).ask("jobs")
