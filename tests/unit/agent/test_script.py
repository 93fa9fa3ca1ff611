"""Of a batch script only those get a signal of the user's own choice that catch it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from slurmext.agent import script
from slurmext.agent.script import catches, tell_script


@pytest.fixture
def shells() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A shell with a trap, one without, and one that ignores the signal; each sleeps, a little at a time."""
    wait = "echo ready; while :; do sleep 0.2 & wait $!; done"
    found = {
        name: subprocess.Popen(
            ["sh", "-c", f"{before} {wait}"], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        for name, before in (("trap", "trap 'echo trapped' USR2;"), ("plain", ""), ("deaf", "trap '' USR2;"))
    }
    for shell in found.values():
        assert shell.stdout is not None
        assert shell.stdout.readline() == "ready\n"
    yield found
    for shell in found.values():
        os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()


def test_who_catches_a_signal(shells: dict[str, subprocess.Popen[str]]) -> None:
    """Neither the default action nor ignoring it is a handler."""
    assert {name: catches(shell.pid, signal.SIGUSR2) for name, shell in shells.items()} == {
        "trap": True,
        "plain": False,
        "deaf": False,
    }


def test_a_shell_without_a_trap_lives_on(
    shells: dict[str, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one with a trap runs it; who was told already is not told twice."""
    stepd = subprocess.Popen(["sleep", "60"])
    try:
        monkeypatch.setattr(script, "is_batch_stepd", lambda pid, job_id, _proc: (pid, job_id) == (stepd.pid, 12))
        monkeypatch.setattr(script, "is_ours", lambda *_: True)
        below = {shell.pid for shell in shells.values()}
        monkeypatch.setattr(script, "is_below", lambda pid, *_: pid in below)
        told = {"cluster": "t", "besides": {shells["trap"].pid}}
        assert tell_script(12, signal.SIGUSR2, **told) == 0  # type: ignore[arg-type]
        assert tell_script(13, signal.SIGUSR2, cluster="t", besides=set()) == 0
        assert tell_script(12, signal.SIGUSR2, cluster="t", besides=set()) == 1
        assert shells["trap"].stdout is not None
        assert shells["trap"].stdout.readline() == "trapped\n"
        time.sleep(0.1)
        assert shells["plain"].poll() is None
        assert shells["deaf"].poll() is None
    finally:
        stepd.kill()
        stepd.wait()
