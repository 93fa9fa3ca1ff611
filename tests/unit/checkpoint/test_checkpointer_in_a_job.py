"""What a Checkpointer takes from the job it runs in: when a save is due, where it goes, whom it is confirmed to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurmext.checkpoint import Checkpointer, CheckpointError, confirm
from slurmext.checkpoint.directory import default_directory
from slurmext.checkpoint.interval import FIRST_COST_S, Interval
from slurmext.checkpoint.reasons import SIGNAL, TERM, TIME
from slurmext.checkpoint.schedule import Schedule
from tests.waiting import until

from .programs import forbidden


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


@contextlib.contextmanager
def serve(path: Path, reply: bytes | None, requests: list[dict]) -> Iterator[None]:
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

    accepting = threading.Thread(target=accept, daemon=True)
    accepting.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # else it waits on, for what has this descriptor next
        accepting.join()
        listener.close()


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


@pytest.mark.parametrize("wait", [True, False], ids=["waits", "goes on"])
def test_a_save_on_the_signal_that_cannot_be_written_is_not_taken_for_one(tmp_path, monkeypatch, capsys, wait):
    """One line says so, training goes on, nobody is told of it, the last one stays, and the next signal is answered."""
    requests: list[dict] = []
    monkeypatch.setattr(confirm, "_silent_until_s", 0.0)  # other agents here were of no use
    with serve(tmp_path / "s", b'{"ok": true}\n', requests):
        monkeypatch.setenv("SLURMEXT_AGENT_SOCKET", str(tmp_path / "s"))
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        with Checkpointer({"a": 1}, tmp_path / "c", every_s=None, wait=wait) as ckpt:
            first = ckpt.save(1, wait=True)
            until((first / "verified").exists)
            until(lambda: "ckpt_keep" in {one["op"] for one in requests})
            os.kill(os.getpid(), signal.SIGUSR1)
            with forbidden(tmp_path / "c"):
                until(lambda: ckpt.due(2))
                assert ckpt.save(2) is None
                assert ckpt.begin().settle(30)
                with pytest.raises(CheckpointError, match="no permission"):
                    ckpt.save(3, wait=True)
            assert not ckpt.begin().schedule.answered()
            assert ckpt.saved_step == 1
            said = [line for line in capsys.readouterr().err.splitlines() if "step 2 " in line or "step" not in line]
            assert len(said) == 1 and "step 2 is not saved: cannot write" in said[0], said
            os.kill(os.getpid(), signal.SIGUSR1)
            until(lambda: ckpt.due(4))
            ckpt.save(4)
            assert ckpt.begin().settle(30)
            assert ckpt.begin().schedule.answered()
    assert [one["step"] for one in requests if one["op"] == "ckpt_confirm"] == [1, 4]
    assert [path.name for path in sorted((tmp_path / "c").glob("save-*"))] == [
        "save-00000001-step-1",
        "save-00000002-step-4",
    ]


@pytest.mark.parametrize(("wait", "owed"), [(None, False), (True, True)], ids=["its own", "with wait=True"])
def test_a_save_that_the_program_insists_on_raises(tmp_path, wait, owed):
    """One that `due` did not ask for, or that is given `wait=True`: the program relies on it."""
    with Checkpointer({"a": 1}, tmp_path / "c", every_s=None, signals=False) as ckpt:
        ckpt.restore()
        if owed:
            ckpt.ask()
            until(ckpt.due)
        with forbidden(tmp_path / "c"), pytest.raises(CheckpointError, match="no permission"):
            ckpt.save(ckpt.gate.step, wait=wait)


def test_after_a_save_that_failed_only_who_is_asked_for_one_saves_soon():
    """Saves that nobody asked for come half a minute later at the earliest; a signal is answered at once."""
    schedule = Schedule(lambda: 0.0, leads=True, watch_deadline=False)
    assert schedule.due(busy=False) == TIME
    schedule.failed(TIME, time.monotonic())
    assert schedule.due(busy=False) is None
    assert 25 < schedule.pause_s(busy=False) <= 30
    assert schedule.too_soon_s(SIGNAL) == 0
    schedule.done(SIGNAL, time.monotonic())
    assert schedule.answered()
    assert 0 < schedule.too_soon_s(SIGNAL) <= 1
    assert schedule.too_soon_s(TERM) == 0


@pytest.mark.parametrize("wait", [True, False], ids=["waits", "goes on"])
def test_the_first_confirmation_has_what_that_save_cost(tmp_path, monkeypatch, wait):
    """Not an assumption: it is on disk, so that is known."""
    requests: list[dict] = []
    monkeypatch.setattr(confirm, "_silent_until_s", 0.0)  # other agents here were of no use
    with serve(tmp_path / "s", b'{"ok": true}\n', requests):
        monkeypatch.setenv("SLURMEXT_AGENT_SOCKET", str(tmp_path / "s"))
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        with Checkpointer({"a": 1}, tmp_path / "c", every_s=None, signals=False, wait=wait) as ckpt:
            ckpt.save(1)
    (cost,) = (one["cost"] for one in requests if one["op"] == "ckpt_confirm")
    assert (cost["saves"], cost["cost_s"] < 4) == (1, True)


def test_until_a_cost_is_measured_it_is_no_more_than_a_save_took():
    """Programs whose steps are seen know it one step later."""
    interval = Interval()
    assert interval.told()["cost_s"] == FIRST_COST_S
    interval.at_most(0.25)
    interval.at_most(40.0)
    assert (interval.told()["cost_s"], interval.told()["saves"]) == (0.25, 0)
