"""Nodes whose clocks are wrong: what they say has the controller's times."""

from __future__ import annotations

import functools
import json
import socket
import time

import pytest

from slurmext.adapters.tcp.clocks import NodeClock
from slurmext.adapters.tcp.wire import parse_event, sent
from slurmext.agent.forward import Forwarder
from slurmext.agent.spool import EventSpool
from slurmext.daemon.checkpoint_events import checkpoint_of

from .conftest import KeyedMunge
from .test_forward import Controller, say, until


def line(at_s: float, sent_s: float, **detail: object) -> dict:
    """What an agent says, read by the other end."""
    event = {"seq": 1, "boot": "b", "node": "n1", "event": "checkpoint", "at_s": at_s, "job_id": 7, **detail}
    return json.loads(sent(json.dumps(event).encode() + b"\n", sent_s))


@pytest.mark.parametrize("ahead_s", [-3600.0, -1.5, 0.0, 1.5, 3600.0])
def test_a_checkpoint_has_the_controller_s_time(ahead_s):
    """It was saved 2 s and told 1 s before it was sent, whatever the node's clock says."""
    clock, now_s = NodeClock(), 1e9
    its_s = now_s + ahead_s
    message = line(its_s - 1, its_s, saved_at_s=its_s - 2)
    event = parse_event(message, "n1", functools.partial(clock.behind_s, now_s=now_s))
    record = checkpoint_of(event, "7")
    assert (record.saved_s, record.confirmed_s) == pytest.approx((now_s - 2, now_s - 1))
    assert "sent_s" not in event.detail


def test_a_job_s_own_claim_does_not_count():
    """A checkpoint from the future is one of now."""
    message = line(5.0, 5.0, saved_at_s=1e12)
    assert checkpoint_of(parse_event(message, "n1", lambda _: 100.0), "7").saved_s == pytest.approx(105.0)


def test_a_line_that_was_late_does_not_move_the_clock():
    """A controller that was busy for a second takes the node's clock for no slower than before; a jump is heeded."""
    clock = NodeClock()
    assert clock.behind_s(100.0, 100.1) == pytest.approx(0.1)
    assert clock.behind_s(101.0, 102.5) == pytest.approx(0.1)
    assert clock.behind_s(103.0, 103.0) == pytest.approx(0.0)
    assert clock.behind_s(44.0, 104.0) == pytest.approx(60.0)  # set back by a minute
    assert clock.behind_s(105.0, 105.0) == pytest.approx(0.0)  # and forth


def test_agents_of_earlier_releases_are_heard():
    """They do not say when they send."""
    event = {"seq": 1, "boot": "b", "node": "n1", "event": "job_start", "at_s": 3.0}
    assert parse_event(event, "n1", NodeClock().behind_s).at_s == 3.0


def test_over_a_connection():
    """The controller listens to what an agent says of its clock, from its first word on."""
    controller = Controller()
    with socket.create_connection(("127.0.0.1", controller.server.port)) as connection:
        assert say(connection, "n1", "n1")["ok"] is True
        its_s = time.time() - 3600
        for seq in (1, 2):
            event = {"seq": seq, "boot": "b", "node": "n1", "event": "job_start", "at_s": its_s - 60}
            connection.sendall(sent(json.dumps(event).encode() + b"\n", its_s))
            assert json.loads(connection.recv(4096))["ack"] == seq
    controller.server.stop()
    assert [event.at_s for event in controller.events] == pytest.approx([its_s + 3600 - 60] * 2, abs=30)


def test_an_agent_says_when_it_sends(tmp_path):
    """Its events keep their own time on the way, however long they wait."""
    spool, controller = EventSpool(tmp_path / "events", "n1"), Controller()
    spool.add("job_start", job_id=1, uid=5)
    (path,) = (tmp_path / "events").iterdir()
    waited = json.loads(path.read_text())
    path.write_text(json.dumps({**waited, "at_s": waited["at_s"] - 500}))
    forwarder = Forwarder(
        spool, node="n1", address=f"127.0.0.1:{controller.server.port}", munge=KeyedMunge(), controller_uids=(0,)
    )
    forwarder.start()
    until(lambda: len(controller.events) == 2)
    forwarder.stop()
    controller.server.stop()
    hello, event = controller.events
    assert event.at_s == pytest.approx(waited["at_s"] - 500, abs=30)
    assert 0 < event.behind_s <= hello.behind_s + 5
