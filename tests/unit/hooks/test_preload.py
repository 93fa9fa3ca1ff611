"""Prolog and TaskProlog of jobs with --preload, as Slurm runs them."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurmext.hooks import client
from tests.unit.hooks.test_wrappers import Hooks

MINE, OTHERS = 65534, 4_000_000


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with tempfile.TemporaryDirectory(prefix="sx", dir="/tmp") as name:
        yield Hooks(Path(name))


def marking(folder: Path) -> tuple[str, Path]:
    """A stand-in for Python that writes down what it was called with."""
    program, calls = folder / "python", folder / "calls"
    program.write_text(f'#!/bin/sh\necho "$4 $6" >>{calls}\n')
    program.chmod(0o755)
    return str(program), calls


def test_an_agent_that_is_restarted_long_after_the_prolog_began_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that it has for that counts from when it was lost."""
    path = tmp_path / "agent.sock"
    for name in ("SLURM_JOB_ID", "SLURM_JOB_UID"):
        monkeypatch.setenv(name, "12")

    def agent() -> None:
        with socket.socket(socket.AF_UNIX) as first:
            first.bind(str(path))
            first.listen()
            with first.accept()[0]:
                time.sleep(1.2)  # longer than it has when the prolog begins
        path.unlink()
        with socket.socket(socket.AF_UNIX) as second:
            second.bind(str(path))
            second.listen()
            with second.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(b'{"ok": true}\n')

    thread = threading.Thread(target=agent, daemon=True)
    thread.start()
    while not path.exists():
        time.sleep(0.01)
    assert client.ask_again("preload", str(path), 30, retry_s=1) == {"ok": True}
    thread.join()


def test_a_job_without_models_starts_no_program_and_one_with_models_a_single_one(tmp_path: Path) -> None:
    """The note is as quick as before; only `preload` asks the agent, with a deadline of its own."""
    python, calls = marking(tmp_path)
    hooks = Hooks(tmp_path, python=python)
    hooks.alive(os.getpid())
    assert hooks.run("Prolog", SLURM_JOB_RESTART_COUNT="0")[0] == 0
    assert not calls.exists()
    assert hooks.run("Prolog", SLURM_JOB_RESTART_COUNT="0", SPANK_SLURMEXT_PRELOAD="org/net")[0] == 0
    assert calls.read_text().split() == ["preload", "1"]
    assert [path.name for path in hooks.notes.iterdir()] == ["12.0.prolog"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the file is its user's")
def test_without_an_agent_the_tasks_hear_where_models_are_stored_that_their_user_may_read(hooks: Hooks) -> None:
    """Not of others' models; the newest revision is meant by the name alone; nothing fails."""
    (hooks.run_dir / "agent-n1.models").mkdir()
    rows = [("org/net", "v1", MINE, "-", 0), ("org/net", "v2", MINE, "-", 0), ("org/secret", "v1", OTHERS, "-", 0),
            ("org/all", "v1", OTHERS, "-", 1), ("org/team", "v1", OTHERS, "65534", 0)]  # fmt: skip
    text = "".join(
        f"{name}\t{rev}\tff\t{uid}\t{gid}\t{public}\t/s/{name}/{rev}\n" for name, rev, uid, gid, public in rows
    )
    (hooks.run_dir / "agent-n1.catalogue").write_text(text)
    status, _, took_s = hooks.run(
        "Prolog", SLURM_JOB_UID=str(MINE), SLURM_JOB_USER="nobody", SLURM_JOB_GID="65534",
        SPANK_SLURMEXT_PRELOAD="org/net,org/secret,org/all@v1,org/team,org/absent",
    )  # fmt: skip
    assert status == 0
    assert took_s < 10
    told = hooks.run_dir / "agent-n1.models" / "12"
    assert (told.stat().st_uid, told.stat().st_mode & 0o777) == (MINE, 0o400)
    status, printed, _ = hooks.run("TaskProlog", SLURMEXT_PRELOAD="org/net")
    assert status == 0
    wanted = "org/net@v2=/s/org/net/v2:org/all@v1=/s/org/all/v1:org/team@v1=/s/org/team/v1"
    assert f"unset SLURMEXT_STAGED\nexport SLURMEXT_PRELOAD_FALLBACK={wanted}\n" in printed
    assert "SLURMEXT_PRELOAD" not in hooks.run("TaskProlog")[1]
