"""A job whose limit is near, that has saved, and that nobody else requeues: it does so itself, and no other."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from slurmext.checkpoint import Checkpointer, requeue

NOW_S = time.time()
END_S = NOW_S + 70
CHAINED = {"SLURMEXT_CKPT": "auto,chain", "SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "3"}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What scontrol was asked for; a fake one that takes a word of `answer` as its refusal."""
    bin_dir, said = tmp_path / "bin", tmp_path / "asked"
    bin_dir.mkdir()
    script = bin_dir / "scontrol"
    script.write_text(
        f'#!/bin/sh\necho "$@" >>{said}\n[ ! -e {tmp_path}/refuse ] || {{ cat {tmp_path}/refuse >&2; exit 1; }}\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_dir}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr(requeue, "_BEGAN_S", NOW_S - 3600)
    return said


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, True),
        ({"SLURMEXT_CKPT": "USR2@60,chain"}, True),
        ({"SLURMEXT_CKPT": "auto"}, False),
        ({"SLURMEXT_CKPT": "chain"}, False),
        ({"SLURMEXT_CKPT": ""}, False),
        ({"SLURM_JOB_ID": ""}, False),
        ({"SLURM_RESTART_COUNT": str(requeue.MOST_LINKS)}, False),
    ],
)
def test_who_asked_for_it(changes: dict[str, str], *, wanted: bool) -> None:
    """Jobs of --ckpt=…,chain, or with SLURMEXT_CKPT set by hand; and not for ever."""
    assert requeue.wanted(CHAINED | changes) is wanted


def test_where_no_agent_knows_of_it_it_is_requeued_at_once(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever it did from now on would be lost."""
    slept: list[float] = []
    assert requeue.requeue(known=False, ask=lambda: ("RUNNING", END_S), sleep=slept.append, now=lambda: NOW_S)
    assert asked.read_text() == "requeue 12\n"
    assert slept == []
    assert "job 12 has saved and is requeued" in capsys.readouterr().err


def test_slurmextd_has_until_the_last_moment(asked: Path) -> None:
    """An agent took note, but it may be that nobody listens to the agent."""
    slept: list[float] = []
    assert requeue.requeue(known=True, ask=lambda: ("RUNNING", END_S), sleep=slept.append, now=lambda: NOW_S)
    assert slept == [pytest.approx(70 - requeue.LAST_MOMENT_S)]
    assert asked.read_text() == "requeue 12\n"


def test_a_limit_shorter_than_the_grace_is_not_all_grace(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the job would do nothing but be requeued."""
    monkeypatch.setattr(requeue, "_BEGAN_S", NOW_S - 10)
    slept: list[float] = []
    assert requeue.requeue(known=False, ask=lambda: ("RUNNING", END_S), sleep=slept.append, now=lambda: NOW_S)
    assert slept == [pytest.approx(30)]
    assert asked.exists()


@pytest.mark.parametrize(
    "answers",
    [
        [None],  # no Slurm to ask
        [("COMPLETING", END_S)],  # somebody was first
        [("RUNNING", None)],  # there is no limit any more
        [("RUNNING", END_S), ("RUNNING", END_S + 3600)],  # it was raised meanwhile
        [("RUNNING", END_S), ("PENDING", END_S)],  # requeued meanwhile
        [("RUNNING", END_S), None],
    ],
)
def test_otherwise_it_is_left_alone(asked: Path, answers: list[tuple[str, float | None] | None]) -> None:
    """What it saved for is not so any more."""
    left = iter(answers)
    assert not requeue.requeue(known=True, ask=lambda: next(left), sleep=lambda _s: None, now=lambda: NOW_S)
    assert next(left, "all asked") == "all asked"
    assert not asked.exists()


def test_what_slurm_says_to_it_is_passed_on(asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line; the program goes on until its limit."""
    (tmp_path / "refuse").write_text("Requested operation is presently disabled for job 12\n")
    assert not requeue.requeue(known=False, ask=lambda: ("RUNNING", END_S))
    assert "could not be requeued: Requested operation is presently disabled" in capsys.readouterr().err
    assert asked.exists()


@pytest.mark.parametrize(("ckpt", "wanted"), [("USR2@600,chain", [False]), ("USR2@600", [])])
def test_a_save_for_the_limit_leads_to_it(
    asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ckpt: str, wanted: list[bool]
) -> None:
    """When the checkpoint is on disk; no other save does, and none of a job without `chain`."""
    came: list[bool] = []
    monkeypatch.setattr(requeue, "requeue", lambda *, known: came.append(known))
    monkeypatch.delenv("SLURMEXT_AGENT_SOCKET", raising=False)
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(int(time.time()) + 70))
    monkeypatch.setenv("SLURMEXT_CKPT", ckpt)
    with Checkpointer({"a": 1}, tmp_path / "c", every_s=None, signals=False) as saver:
        step, until_s = 1, time.monotonic() + 20
        while not saver.due(step):
            assert time.monotonic() < until_s
            step += 1
            time.sleep(0.001)
        assert came == [], "not before it is saved"
        saver.save(step)
        for thread in threading.enumerate():
            if thread.name == "slurmext-requeue":
                thread.join()
        saver.save(step + 1)
    assert came == wanted
    assert not asked.exists()
