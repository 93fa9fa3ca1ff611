"""Which job a task speaks for, and whether Slurm has told it already: both by the slurmstepd above it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slurmext.adapters.tcp.orders import TellJob
from slurmext.agent.listeners import reached_by_slurm
from tests.unit.agent.conftest import ask, hook

ROOT = Path(__file__).parents[3]
WHOLE, COMPONENT, STRANGER = 4_200_000_001, 4_200_000_002, 4_200_000_003
"""Ids that no Slurm on this machine gives."""
TASK = """
import sys
from slurmext.checkpoint.confirm import announce, confirm
print(confirm(step=7, path="/c", size_bytes=1, on_signal=True), announce("USR1"), flush=True)
sys.stdin.read()
print("alive", flush=True)
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a slurmstepd is one only as root's process")


@pytest.mark.parametrize(("runs_here", "taken"), [(COMPONENT, True), (STRANGER, False)])
def test_a_task_of_another_component_has_the_number_of_the_first(
    new_agent: Any, folder: Path, runs_here: int, *, taken: bool
) -> None:
    """Its slurmstepd has the component's own, which the prolog announced: the task speaks for that, if it is there."""
    agent = new_agent()
    root = folder / "run" / "agent-n1.root.sock"
    assert ask(root, hook("prolog", runs_here, uid=0, SLURM_JOB_RESTART_COUNT="0"))["ok"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "SLURM_JOB_ID": str(WHOLE),
           "SLURMEXT_AGENT_SOCKET": agent.node.socket_path, "PYTHON": sys.executable, "TASK": TASK}  # fmt: skip
    # Two commands, so that the shell stays and is the "slurmstepd" with the task as its child.
    stepd = ["/bin/bash", "-c", f'exec -a "slurmstepd: [{COMPONENT}.0]" /bin/bash -c \'"$PYTHON" -c "$TASK"; true\'']
    with subprocess.Popen(stepd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as task:
        assert task.stdout is not None
        assert task.stdout.readline().split() == [str(taken), str(taken)]
        assert set(agent.node.listeners._jobs) == ({COMPONENT} if taken else set())
        agent._obey(
            TellJob(job_id=COMPONENT, signal="USR1")
        )  # which Slurm has sent to the step: it would die of this one
        assert task.communicate("")[0] == "alive\n"
    events = [json.loads(path.read_text()) for path in agent.node.events._directory.glob("*.json")]
    assert [event["job_id"] for event in events if event["event"] == "checkpoint"] == ([COMPONENT] if taken else [])


@pytest.mark.parametrize(
    ("pid", "script", "reached"),
    [
        (21, False, True),  # a task of srun's
        (22, True, True),  # what that started, in a session of its own
        (11, False, True),  # the batch script
        (12, False, True),  # in its process group
        (13, False, False),  # in a session of its own: a worker of torchrun
        (12, True, False),  # Slurm was told to leave the script alone
        (31, False, False),  # below no slurmstepd
        (41, False, False),  # below one that some user named so
        (99, False, False),  # gone
    ],
)
def test_nobody_is_told_twice(tmp_path: Path, pid: int, *, script: bool, reached: bool) -> None:
    """Slurm's own signal reaches the steps of srun and the process group of the script; the agent tells the others."""

    def process(number: int, parent: int, group: int, title: bytes = b"python", uid: int = 1000) -> None:
        place = tmp_path / str(number)
        place.mkdir()
        (place / "cmdline").write_bytes(title + b"\0")
        (place / "stat").write_text(f"{number} (a) b) S {parent} {group} 0")
        (place / "status").write_text(f"Name:\tx\nUid:\t{uid}\t0\t0\t0\n")

    process(10, 1, 10, b"slurmstepd: [12.batch]", 0)
    process(11, 10, 11)
    process(12, 11, 11)
    process(13, 11, 13)
    process(20, 1, 20, b"slurmstepd: [12.0]", 0)
    process(21, 20, 21)
    process(22, 21, 22)
    process(30, 1, 30, b"slurmstepd: [12.extern]", 0)
    process(31, 30, 31)
    process(40, 1, 40, b"slurmstepd: [12.0]")
    process(41, 40, 41)
    assert reached_by_slurm(pid, script=script, proc=str(tmp_path)) is reached
