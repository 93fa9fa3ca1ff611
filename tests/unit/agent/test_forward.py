"""Events from agents to the controller: at least once, in order, and only between ends that prove who they are."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from slurmext.adapters.munge import MungeAuth, MungeError
from slurmext.adapters.tcp import agent_server
from slurmext.adapters.tcp.agent_server import AgentServer
from slurmext.adapters.tcp.orders import EndJob
from slurmext.adapters.tcp.wire import MAX_LINE_BYTES, WireError, parse_event
from slurmext.agent import spool as spool_module
from slurmext.agent.forward import Forwarder
from slurmext.agent.spool import EventSpool
from tests.waiting import until

from .conftest import KeyedMunge


class Controller:
    """An AgentServer on a fixed port that can be started again."""

    def __init__(self, munge=None, port: int = 0, allowed=(0,)) -> None:
        self.events, self.fail = [], False
        self.server = AgentServer(f"127.0.0.1:{port}", munge or KeyedMunge(), allowed, self._take)
        self.server.start()

    def _take(self, event) -> None:
        if self.fail:
            raise RuntimeError("database is gone")
        self.events.append(event)

    @property
    def jobs(self) -> list[str]:
        return [event.job_id for event in self.events if event.event != "hello"]


def say(connection: socket.socket, node: str, claimed: str) -> dict:
    """An agent's part of the handshake; the controller's answer."""
    nonce = json.loads(connection.recv(4096))["nonce"]
    mine = "ab" * 16
    credential = KeyedMunge().encode(f"slurmext-agent/1 {claimed} {nonce} {mine}".encode())
    connection.sendall(json.dumps({"node": node, "nonce": mine, "credential": credential}).encode() + b"\n")
    return json.loads(connection.recv(65536))


@pytest.fixture
def spool(tmp_path):
    return EventSpool(tmp_path / "events", "n1")


@pytest.fixture
def connect(spool):
    forwarders = []

    def start(port: int, munge=None, uids=(0,)):
        forwarder = Forwarder(
            spool, node="n1", address=f"127.0.0.1:{port}", munge=munge or KeyedMunge(), controller_uids=uids
        )
        forwarder.start()
        forwarders.append(forwarder)
        return forwarder

    yield start
    for forwarder in forwarders:
        forwarder.stop()


def test_events_arrive_and_leave_the_spool(spool, connect):
    """Events added before and after the connection arrive in order; once acknowledged nothing is left on disk."""
    controller = Controller()
    spool.add("job_start", job_id=1, uid=5)
    connect(controller.server.port)
    until(lambda: controller.jobs == ["1"])
    started = time.monotonic()
    spool.add("checkpoint", job_id=1, uid=5, step=3)
    until(lambda: controller.jobs == ["1", "1"])
    assert time.monotonic() - started < 15  # woken: on its own it looks every 30 s
    assert controller.events[-1].detail == {"step": 3}
    until(lambda: len(spool) == 0)
    assert list(spool._directory.iterdir()) == []
    assert [agent.node for agent in controller.server.connected()] == ["n1"]
    controller.server.stop()


def test_a_controller_that_comes_back_gets_what_waited(spool, connect):
    """Events wait while the controller is away, over its restarts and over the agent's."""
    controller = Controller()
    port = controller.server.port
    forwarder = connect(port)
    until(lambda: controller.events)
    controller.server.stop()
    until(lambda: forwarder.connected_since_s is None)
    for job_id in range(20):
        spool.add("job_start", job_id=job_id, uid=5)
    forwarder.stop()
    survivor = EventSpool(spool._directory, "n1")
    survivor.add("job_end", job_id=99, uid=5)
    again = Controller(port=port)
    other = Forwarder(survivor, node="n1", address=f"127.0.0.1:{port}", munge=KeyedMunge(), controller_uids=(0,))
    other.start()
    until(lambda: len(again.jobs) >= 21)
    other.stop()
    assert again.jobs == [*map(str, range(20)), "99"]
    again.server.stop()


def test_orders_reach_the_agent_at_any_time(spool):
    """While it has nothing to say, and while it waits for an acknowledgement; one for another node does not."""
    obeyed = []
    controller = Controller()
    order = EndJob(job_id=7, started_before_s=12.5)
    forwarder = Forwarder(
        spool, node="n1", address=f"127.0.0.1:{controller.server.port}", munge=KeyedMunge(), controller_uids=(0,),
        on_order=obeyed.append,
    )  # fmt: skip
    forwarder.start()
    until(lambda: forwarder.connected_since_s)
    assert controller.server.order(["n1", "n2"], order) == ["n1"]
    until(lambda: obeyed == [order])
    take = controller._take
    controller.server._on_event = lambda event: (controller.server.order(["n1"], order), take(event))
    for job_id in range(3):
        spool.add("job_start", job_id=job_id, uid=5)
    until(lambda: len(spool) == 0)
    assert obeyed == [order] * 4
    assert controller.jobs == ["0", "1", "2"]
    forwarder.stop()
    controller.server.stop()


def test_an_order_that_goes_wrong_or_is_unknown_changes_nothing_else(spool):
    """The agent goes on forwarding over the same connection."""
    controller = Controller()

    def fail(_order):
        raise RuntimeError("no")

    forwarder = Forwarder(
        spool, node="n1", address=f"127.0.0.1:{controller.server.port}", munge=KeyedMunge(), controller_uids=(0,),
        on_order=fail,
    )  # fmt: skip
    forwarder.start()
    until(lambda: forwarder.connected_since_s)
    since_s = forwarder.connected_since_s
    controller.server.order(["n1"], EndJob(job_id=7, started_before_s=12.5))
    next(iter(controller.server._lines.values())).send({"later": 1})
    spool.add("job_start", job_id=1, uid=5)
    until(lambda: controller.jobs == ["1"])
    assert forwarder.connected_since_s == since_s
    forwarder.stop()
    controller.server.stop()


def test_a_stranger_who_speaks_slowly_does_not_hold_a_place(spool, connect, monkeypatch):
    """A byte now and then is no handshake: the connection is closed when its time is over, and agents get in."""
    monkeypatch.setattr(agent_server, "HANDSHAKE_S", 0.5)
    monkeypatch.setattr(agent_server, "MAX_STRANGERS", 2)
    controller = Controller()
    slow = [socket.create_connection(("127.0.0.1", controller.server.port)) for _ in range(2)]
    began = time.monotonic()

    def dribble(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while time.monotonic() - began < 60:
                connection.send(b"[")
                time.sleep(0.1)

    for connection in slow:
        threading.Thread(target=dribble, args=(connection,), daemon=True).start()
    connect(controller.server.port)
    until(controller.server.connected)
    for connection in slow:
        connection.close()
    controller.server.stop()


class LongOrder:
    """An order of so many bytes, which no agent knows."""

    def __init__(self, size: int) -> None:
        self.size = size

    def line(self) -> dict:
        return {"long": "x" * self.size}


def test_an_agent_that_does_not_read_holds_nobody_up(spool, connect, monkeypatch):
    """Its node is frozen, its connection stands: it is hung up on, and others are told what they are to do."""
    monkeypatch.setattr(agent_server, "SEND_S", 0.3)
    controller = Controller()
    connect(controller.server.port)
    with socket.create_connection(("127.0.0.1", controller.server.port), timeout=5) as frozen:
        assert say(frozen, "n0", "n0")["ok"] is True
        until(lambda: {agent.node for agent in controller.server.connected()} == {"n0", "n1"})

        def tell() -> None:
            while "n0" in controller.server.order(["n0", "n1"], LongOrder(MAX_LINE_BYTES - 100)):
                pass

        telling = threading.Thread(target=tell, daemon=True)
        telling.start()
        telling.join(30)
        assert not telling.is_alive()
        until(lambda: [agent.node for agent in controller.server.connected()] == ["n1"])
        assert controller.server.order(["n1"], EndJob(job_id=7, started_before_s=12.5)) == ["n1"]
    controller.server.stop()


def test_what_is_too_long_for_a_line_does_not_break_the_connection(spool, connect):
    """Neither an order nor an event: the other end would hang up, again and again, and hear nothing else."""
    controller = Controller()
    forwarder = connect(controller.server.port)
    until(lambda: forwarder.connected_since_s)
    since_s = forwarder.connected_since_s
    assert controller.server.order(["n1"], LongOrder(MAX_LINE_BYTES)) == []
    spool.add("models", models=["x" * MAX_LINE_BYTES])
    spool.add("job_start", job_id=1, uid=5)
    until(lambda: controller.jobs == ["1"])
    assert forwarder.connected_since_s == since_s and len(controller.events) == 2
    controller.server.stop()


def test_nothing_is_acknowledged_before_it_is_stored(spool, connect):
    """When the controller cannot store an event it is sent again until it can."""
    controller = Controller()
    connect(controller.server.port)
    until(lambda: controller.events)
    controller.fail = True
    spool.add("job_end", job_id=3, uid=5)
    time.sleep(0.7)
    assert len(spool) == 1 and controller.jobs == []
    controller.fail = False
    until(lambda: controller.jobs == ["3"])
    until(lambda: len(spool) == 0)
    controller.server.stop()


@pytest.mark.parametrize(("agent", "why"), [
    (KeyedMunge(key=b"other"), "another key"), (KeyedMunge(uid=1000), "an ordinary user"),
])  # fmt: skip
def test_strangers_are_not_heard(spool, connect, agent, why):
    """An agent with {why} is refused and its events stay where they are."""
    controller = Controller()
    spool.add("job_end", job_id=3, uid=5)
    connect(controller.server.port, agent)
    time.sleep(1)
    assert controller.events == [] and len(spool) == 1 and controller.server.connected() == []
    controller.server.stop()


def test_a_false_controller_gets_nothing(spool, connect):
    """Whoever took the controller's port as an ordinary user sees no event."""
    impostor = Controller(KeyedMunge(uid=1000))
    spool.add("job_end", job_id=3, uid=5)
    connect(impostor.server.port)
    time.sleep(1)
    assert impostor.events == [] and len(spool) == 1
    impostor.server.stop()


def test_a_credential_is_good_for_one_connection(spool):
    """A credential seen on the wire does not open a second connection, nor does one for another node."""
    controller = Controller()
    for node, answer in (("n1", '"ok": true'), ("n2", "another connection or node")):
        with socket.create_connection(("127.0.0.1", controller.server.port), timeout=5) as connection:
            assert answer in json.dumps(say(connection, node, "n1"))
    controller.server.stop()


@pytest.mark.parametrize("garbage", [b"", b"GET / HTTP/1.0\r\n\r\n", b"[]\n", b"\xff" * 100000, b'{"node": 5}\n'])
def test_garbage_on_the_port_is_survived(spool, connect, garbage):
    """A port scan or a web browser does not disturb agents."""
    controller = Controller()
    with socket.create_connection(("127.0.0.1", controller.server.port), timeout=5) as connection:
        try:
            connection.sendall(garbage)
        except OSError:
            pass
        spool.add("job_end", job_id=3, uid=5)
        connect(controller.server.port)
        until(lambda: controller.jobs == ["3"])
    controller.server.stop()


@pytest.mark.parametrize("change", [
    {"seq": -1}, {"seq": "1"}, {"event": "Job End"}, {"event": None}, {"node": "n2"}, {"job_id": "x"}, {"uid": -5}, {"at_s": None},
    {"boot": 5},
])  # fmt: skip
def test_an_event_that_is_none_is_refused(change):
    """A line that lacks a field or speaks for another node never reaches the store."""
    line = {"seq": 1, "boot": "b", "node": "n1", "event": "job_end", "at_s": 1.0, "job_id": 3, "uid": 5, "x": 1}
    assert parse_event(line, "n1").detail == {"x": 1}
    with pytest.raises(WireError, match="node n1 sent no usable event"):
        parse_event(line | change, "n1")


def test_damaged_spool_files_hold_nothing_up(tmp_path):
    """A file torn or emptied by a crash is dropped; the events behind it are sent."""
    first = EventSpool(tmp_path / "e", "n1")
    for job_id in (1, 2, 3):
        first.add("job_start", job_id=job_id)
    files = sorted((tmp_path / "e").glob("*.json"))
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:20])
    (tmp_path / "e" / ".x.json.new").write_bytes(b"half")
    name, line = EventSpool(tmp_path / "e", "n1").head() or ("", b"{}")
    assert json.loads(line)["job_id"] == 3 and name == files[2].name
    assert not (tmp_path / "e" / ".x.json.new").exists()


def test_the_spool_is_bounded(tmp_path, monkeypatch):
    """A controller away for weeks does not fill the node's disk: the oldest events go."""
    monkeypatch.setattr(spool_module, "MAX_EVENTS", 5)
    spool = EventSpool(tmp_path / "e", "n1")
    for job_id in range(9):
        spool.add("job_start", job_id=job_id)
    assert len(spool) == len(list((tmp_path / "e").iterdir())) == 5
    assert json.loads(spool.head()[1])["job_id"] == 4


def test_real_munge(tmp_path):
    """With munged: a credential gives its maker's uid and payload once; another key's is refused; no munged is said."""
    if not shutil.which("munged", path="/usr/sbin:/usr/bin"):
        pytest.skip("munge is not installed")
    key = tmp_path / "key"
    key.write_bytes(b"k" * 1024)
    key.chmod(0o400)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    program = subprocess.Popen(
        ["/usr/sbin/munged", "--foreground", "--force", f"--socket={tmp_path}/s", f"--key-file={key}", f"--pid-file={tmp_path}/p",
         f"--seed-file={tmp_path}/seed", f"--log-file={tmp_path}/log"], stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        until((tmp_path / "s").exists)
        munge = MungeAuth.find(socket=tmp_path / "s")
        credential = munge.encode(b"a payload with\nlines\n")
        proof = munge.decode(credential)
        assert (proof.uid, proof.payload) == (__import__("os").getuid(), b"a payload with\nlines\n")
        with pytest.raises(MungeError, match="(?i)replayed"):
            munge.decode(credential)
        with pytest.raises(MungeError):
            munge.decode("MUNGE:AwQFAAB:")
    finally:
        program.terminate()
        program.wait()
    with pytest.raises(MungeError, match="(?i)munge"):
        MungeAuth.find(bin_dir=Path("/nowhere"), socket=tmp_path / "none").encode(b"x")
