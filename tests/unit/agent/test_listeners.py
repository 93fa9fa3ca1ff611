"""Processes that ask the agent for the checkpoint signal get it, whatever session they are in; nobody else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slurmext.adapters.tcp.orders import TellJob
from slurmext.agent.listeners import Listeners
from slurmext.checkpoint import agent as client
from slurmext.checkpoint.confirm import confirm
from slurmext.checkpoint.tiers import Tiers
from tests.unit.agent.conftest import ask, confirmation, environment, hook, start_job
from tests.waiting import until

ROOT = Path(__file__).parents[3]
LOOP = """
import sys, time
from slurmext.checkpoint import Checkpointer
ckpt = Checkpointer({"n": 1}, sys.argv[1], every_s=None)
print("ready", flush=True)
for step in range(1, 2000):
    if ckpt.due(step):
        ckpt.save(step)
        print("saved", flush=True)
    time.sleep(0.01)
"""


def test_a_rank_with_a_session_of_its_own_is_told(new_agent: Any, folder: Path, tmp_path: Path) -> None:
    """The library announces itself; an order of the controller for its signal makes it save, one for another does not."""
    agent = new_agent()
    start_job(folder, 12, os.geteuid())
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment(agent, 12)}
    rank = subprocess.Popen([sys.executable, "-c", LOOP, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=env,
                            start_new_session=True)  # fmt: skip
    try:
        assert rank.stdout is not None
        assert rank.stdout.readline() == "ready\n"
        until(lambda: agent.node.listeners._jobs)
        assert agent.node.listeners.tell(12, "USR2") == set()
        agent._obey(TellJob(job_id=12, signal="USR1"))
        assert rank.stdout.readline() == "saved\n"
        assert ask(folder / "run" / "agent-n1.root.sock", hook("epilog", 12, uid=os.geteuid()))["ok"]
        assert agent.node.listeners.tell(12, "USR1") == set()
    finally:
        rank.kill()
        rank.communicate()


def test_only_for_ones_own_jobs(new_agent: Any, folder: Path) -> None:
    """A user cannot listen for the job of another, nor for a signal that is none."""
    agent = new_agent()
    start_job(folder, 12, 4321)
    start_job(folder, 13, os.geteuid())
    asked = {"op": "ckpt_listen", "job_id": 12, "signal": "USR1"}
    assert "is not a job of uid" in ask(agent.node.socket_path, asked)["error"]
    assert "is none" in ask(agent.node.socket_path, asked | {"job_id": 13, "signal": "_UNBLOCK"})["error"]
    assert agent.node.listeners._jobs == {}


def test_a_pid_that_was_used_anew_is_left_alone() -> None:
    """Neither a process that began later nor one of another user is signalled."""
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        listeners = Listeners()
        assert listeners.add(1, pid=sleeper.pid, uid=os.getuid(), signal_name="TERM")
        (one,) = listeners._jobs[1].values()
        for other in (replace(one, started=one.started - 1), replace(one, uid=one.uid + 1)):
            listeners._jobs[1] = {one.pid: other}
            assert listeners.tell(1, "TERM") == set()
        assert sleeper.poll() is None
        listeners._jobs[1] = {one.pid: one}
        assert listeners.tell(1, "TERM") == {sleeper.pid}
        assert sleeper.wait(10) == -signal.SIGTERM
        assert listeners.tell(1, "TERM") == set()
    finally:
        sleeper.kill()


def test_many_ranks_at_once_are_all_served(
    new_agent: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The agent hangs up on connections that are too many; the library asks again, and there is no line about it."""
    agent = new_agent()
    start_job(folder, 12, os.geteuid())
    for name, value in environment(agent, 12).items():
        monkeypatch.setenv(name, value)
    slow = agent.copies.hand_out
    monkeypatch.setattr(agent.copies, "hand_out", lambda *args: time.sleep(0.3) or slow(*args))
    fetched = [threading.Thread(target=Tiers().places) for _ in range(40)]
    told: list[bool] = []
    confirms = [
        threading.Thread(target=lambda: told.append(confirm(step=1, path="/c", size_bytes=1, on_signal=True)))
        for _ in range(16)
    ]
    for thread in (*fetched, *confirms):
        thread.start()
    for thread in (*fetched, *confirms):
        thread.join()
    assert told == [True] * 16
    assert capsys.readouterr().err == ""


def test_an_agent_that_starts_anew_is_waited_for(new_agent: Any, folder: Path) -> None:
    """What decides whether a job is requeued at once is said again until there is somebody to hear it."""
    agent = new_agent()
    start_job(folder, 12, os.geteuid())
    agent.stop()
    with pytest.raises(OSError, match=r"."):
        client.ask(agent.node.socket_path, confirmation(12), patience_s=5)
    later = threading.Timer(0.5, new_agent)
    later.start()
    reply, _ = client.ask(agent.node.socket_path, confirmation(12), patience_s=10, insist=True)
    later.join()
    assert reply == {"ok": True}
