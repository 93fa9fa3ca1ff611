"""A program in a container: it sees no Slurm, and the node's agent only where its directory is mounted."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time

import pytest

from slurmext.checkpoint import confirm

from .programs import run

SAVER = """
    import sys, time
    from slurmext.checkpoint import Checkpointer
    ckpt = Checkpointer({}, sys.argv[1], every_s=None); ckpt.restore(); print("ready", flush=True)
    while True:
        if ckpt.due():
            ckpt.save(ckpt.gate.step); print("saved", flush=True)
        time.sleep(0.01)
"""


@pytest.fixture
def agent(tmp_path):
    """Takes note of everything; the path of its socket."""
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(16)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    asked = json.loads(connection.makefile("rb").readline())
                    connection.sendall(
                        json.dumps({"ok": asked["op"] in {"ckpt_confirm", "ckpt_listen"}}).encode() + b"\n"
                    )

        threading.Thread(target=serve, daemon=True).start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)


def start(tmp_path, address):
    """A saver in job 41 that finds no squeue."""
    nowhere = {"SLURM_JOB_ID": "41", "SLURMEXT_AGENT_SOCKET": str(address), "PATH": str(tmp_path)}
    program = run(SAVER, tmp_path / "saved", **nowhere)
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGUSR1)
    assert program.stdout.readline() == "saved\n"
    return program


def test_what_was_confirmed_may_go(tmp_path, agent):
    """The TERM that follows a confirmed checkpoint is that of the requeue: nobody need ask Slurm."""
    program = start(tmp_path, agent)
    program.terminate()
    assert program.wait(20) == -signal.SIGTERM


def test_what_nobody_took_note_of_stays_until_it_is_killed(tmp_path):
    """Slurm may still count on the job: one that ended by itself would never come back."""
    program = start(tmp_path, tmp_path / "not-mounted" / "agent.sock")
    program.terminate()
    lock = tmp_path / "saved" / ".lock"
    for _ in range(2):  # it says so again and again
        while "on its way out" not in lock.read_text():
            assert program.poll() is None
            time.sleep(0.01)
        lock.write_text("")
    assert any(f"there is no {tmp_path / 'not-mounted'}: mount that" in line for line in program.stderr)
    program.kill()
    program.communicate()


def test_an_agent_out_of_sight_is_not_waited_for(monkeypatch, capfd):
    """A directory that is not mounted does not come, whatever hangs on the answer."""
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    monkeypatch.setenv("SLURMEXT_AGENT_SOCKET", "/nowhere/to/be/seen/agent.sock")
    monkeypatch.setattr(confirm, "_said_out_of_sight", False)
    began_s = time.monotonic()
    assert confirm.confirm(step=1, path="/x", size_bytes=1, on_signal=True) is False
    assert time.monotonic() - began_s < confirm.URGENT_S / 2
    assert confirm.announce("USR1", leads=False) is False
    assert "mount that into the container" not in capfd.readouterr().err
    for _ in range(2):
        assert confirm.announce("USR1") is False
    assert capfd.readouterr().err.count("mount that into the container") == 1
