"""What a Checkpointer takes from the job it runs in: when a save is due, where it goes, whom it is confirmed to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from slurmext.checkpoint import Checkpointer, confirm
from slurmext.checkpoint.directory import default_directory
from tests.waiting import until


def test_due_on_the_signal_until_saved(tmp_path, monkeypatch):
    """The signal makes a save due once; `SLURMEXT_CKPT` names which; a handler of the program's own still runs."""
    monkeypatch.setenv("SLURMEXT_CKPT", "SIGURG@30")
    seen = []
    former = signal.signal(signal.SIGURG, lambda *_: seen.append(1))
    with Checkpointer({}, tmp_path) as ckpt:
        assert not ckpt.due(1)
        os.kill(os.getpid(), signal.SIGURG)
        until(lambda: ckpt.due(2))
        assert seen == [1]
        ckpt.save(2)
        assert not ckpt.due(3)
    signal.signal(signal.SIGURG, former)


def test_a_program_that_does_not_save_when_it_is_due_is_told_again(tmp_path):
    """It may have its reasons; asked twice for one step the answer is the same, and the next request is heard."""
    with Checkpointer({}, tmp_path, every_s=None, signals=False) as ckpt:
        for _ in range(2):
            ckpt.ask()
            until(ckpt.due)
            assert ckpt.due(ckpt.gate.step)
            assert not ckpt.due()
        ckpt.ask()
        until(ckpt.due)
        assert ckpt.save(ckpt.gate.step).exists()


def test_due_after_a_while(tmp_path):
    """Without a signal a save is due after `every_s`; None leaves it to signals."""
    with (
        Checkpointer({}, tmp_path / "a", every_s=0.2, signals=False) as ckpt,
        Checkpointer({}, tmp_path / "b", every_s=None, signals=False) as never,
    ):
        assert not ckpt.due(1)
        until(lambda: ckpt.due(2))
        assert not never.due(2)
        ckpt.save(2)
        assert not ckpt.due(3)


def test_where_checkpoints_go(monkeypatch):
    """--ckpt-dir, else a folder of the job's id where it was submitted: the same one after a requeue."""
    monkeypatch.setenv("SLURM_SUBMIT_DIR", "/home/alice")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert default_directory() == Path("/home/alice/slurmext-ckpt/12")
    monkeypatch.setenv("SLURMEXT_CKPT_DIR", "/scratch/x")
    assert default_directory() == Path("/scratch/x")


def test_tasks_of_an_array_have_a_directory_each(monkeypatch):
    """One --ckpt-dir for all tasks of an array is divided among them; the default has the task's own job id."""
    monkeypatch.setenv("SLURM_JOB_ID", "13")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    monkeypatch.setenv("SLURMEXT_CKPT_DIR", "/scratch/x")
    assert default_directory() == Path("/scratch/x/task-7")
    monkeypatch.setenv("SLURMEXT_CKPT_DIR", "/home/alice/slurmext-ckpt/13")
    assert default_directory() == Path("/home/alice/slurmext-ckpt/13")


def serve(path: Path, reply: bytes | None, requests: list[dict]) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer(connection: socket.socket) -> None:
        requests.append(json.loads(connection.recv(65536)))
        if reply is None:
            time.sleep(5)
        with contextlib.suppress(OSError):
            connection.sendall(reply or b"")
        connection.close()

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


@pytest.mark.parametrize(
    "reply", [b'{"ok": true}\n', b'{"ok": false, "error": "not yours"}\n', b"\xff\n", b"[]\n", b"", None]
)
def test_a_save_is_confirmed_and_never_fails_for_it(tmp_path, monkeypatch, capsys, reply):
    """After a save on the signal the agent is told; one that refuses, dies or hangs costs one line and two seconds."""
    requests: list[dict] = []
    with serve(tmp_path / "s", reply, requests):
        monkeypatch.setenv("SLURMEXT_AGENT_SOCKET", str(tmp_path / "s"))
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        with Checkpointer({"a": 1}, tmp_path / "c") as ckpt:
            os.kill(os.getpid(), signal.SIGUSR1)
            until(lambda: ckpt.due(300))
            started = time.monotonic()
            path = ckpt.save(300)
            assert time.monotonic() - started < 4.5  # one that hangs does for five
    (request,) = [asked for asked in requests if asked["op"] == "ckpt_confirm"]
    assert (request["op"], request["job_id"], request["step"], request["path"], request["on_signal"]) == (
        "ckpt_confirm", 12, 300, str(path), True)  # fmt: skip
    assert request["size_bytes"] == sum(file.stat().st_size for file in path.iterdir())
    assert abs(request["saved_at_s"] - time.time()) < 10
    assert ("did not take note" in capsys.readouterr().err) is (reply != b'{"ok": true}\n')


def test_one_of_the_ranks_confirms(tmp_path, monkeypatch):
    """The agent hears of a checkpoint once, from rank 0."""
    requests: list[dict] = []

    def train(rank: int) -> None:
        with Checkpointer({"a": rank}, tmp_path / "c", rank=rank, world=2, every_s=None, signals=False) as ckpt:
            ckpt.save(7)

    with serve(tmp_path / "s", b'{"ok": true}\n', requests):
        monkeypatch.setenv("SLURMEXT_AGENT_SOCKET", str(tmp_path / "s"))
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        monkeypatch.setattr(confirm, "_silent_until_s", 0.0)  # other agents here were of no use
        other = threading.Thread(target=train, args=(1,))
        other.start()
        train(0)
        other.join()
    assert [asked["step"] for asked in requests if asked["op"] == "ckpt_confirm"] == [7]
