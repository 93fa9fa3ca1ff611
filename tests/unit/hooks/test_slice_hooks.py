"""The hooks of jobs with slices: the prolog asks, a task gets its slot or does not start."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurmext.agent.server import UnixServer

from .test_wrappers import Hooks

SLOTS = """\
slots 2
0 CUDA_VISIBLE_DEVICES=MIG-a
0 SLURMEXT_SLICES=MIG-a,MIG-b
1 CUDA_VISIBLE_DEVICES=MIG-b
1 WORDS=a b \\n c
"""


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    with tempfile.TemporaryDirectory(prefix="sx", dir="/tmp") as name:
        python = Path(name, "python")
        python.write_text(f"#!/bin/sh\necho $4 >>{name}/asked\n")
        python.chmod(0o755)
        hooks = Hooks(Path(name), python=str(python))
        (hooks.run_dir / "agent-n1.slices").mkdir()
        yield hooks


def tell(hooks, text):
    """What the agent writes for job 12."""
    draft = hooks.run_dir / "draft"
    draft.write_text(text)
    draft.replace(hooks.run_dir / "agent-n1.slices" / "12")


@pytest.mark.parametrize(("local", "expected"), [
    ("0", ["CUDA_VISIBLE_DEVICES=MIG-a", "SLURMEXT_SLICES=MIG-a,MIG-b"]),
    ("1", ["CUDA_VISIBLE_DEVICES=MIG-b", "WORDS=a b \\n c"]),
    ("4", ["CUDA_VISIBLE_DEVICES=MIG-a", "SLURMEXT_SLICES=MIG-a,MIG-b"]),
    ("", ["CUDA_VISIBLE_DEVICES=MIG-a", "SLURMEXT_SLICES=MIG-a,MIG-b"]),
])  # fmt: skip
def test_a_task_gets_its_slot(hooks, local, expected):
    """Task LOCALID of the node has slot LOCALID mod their number, also when the agent cannot be asked."""
    tell(hooks, SLOTS)
    status, output, _ = hooks.run("TaskProlog", SLURM_LOCALID=local)
    assert status == 0
    assert output.splitlines() == [f"export {value}" for value in expected]
    assert (hooks.run_dir.parent / "asked").read_text() == "task\n"


@pytest.mark.parametrize(("own", "told"), [({}, True), ({"SLURMEXT_GPU_MEM": "18G"}, False)])
def test_a_task_is_told_what_its_size_asked_for(hooks, own, told):
    """Where no option said it: then its own word stands."""
    tell(hooks, SLOTS + "- SLURMEXT_GPU_SLICE=1g.10gb:2\n- SLURMEXT_GPU_X=a b\n")
    _, output, _ = hooks.run("TaskProlog", SLURM_LOCALID="1", **own)
    assert output.startswith("export CUDA_VISIBLE_DEVICES=MIG-b\n")
    assert ("export SLURMEXT_GPU_SLICE=1g.10gb:2\nexport SLURMEXT_GPU_X=a b\n" in output) is told


def test_a_task_waits_for_its_slice(hooks):
    """While slices are made the task waits, and starts when they are there."""
    tell(hooks, "wait\n")
    threading.Timer(0.5, tell, (hooks, SLOTS)).start()
    status, output, took_s = hooks.run("TaskProlog", SLURM_LOCALID="1")
    assert status == 0 and "MIG-b" in output and took_s > 0.4


@pytest.mark.parametrize(("text", "words"), [
    ("miss 1g.10gb at 3: \\t it's $(id) taken\n", "1g.10gb at 3: \\t it's $(id) taken"), (None, "the agent of this node"),
])  # fmt: skip
def test_a_task_without_its_slice_does_not_start(hooks, text, words):
    """It says why, waits to be requeued, and fails if that does not happen."""
    hooks.paths["TaskProlog"].write_text(hooks.paths["TaskProlog"].read_text().replace("sleep 60", "sleep 0.3"))
    if text:
        tell(hooks, text)
    status, output, took_s = hooks.run("TaskProlog", SLURMEXT_GPU_SLICE="1g.10gb")
    assert (status, output) == (1, f"print slurmext: no slice for this task: {words}{'' if text else ' has none'}\n")
    assert took_s > 0.25


def test_other_jobs_are_left_alone(hooks):
    """A job without slices has nothing to do with all this."""
    assert hooks.run("TaskProlog")[:2] == (0, "")
    assert not (hooks.run_dir.parent / "asked").exists()


@pytest.mark.parametrize("sign", ["file", "option"])
def test_the_prolog_of_a_job_with_slices_asks(hooks, sign):
    """A note would be too late: slices are there before the job starts. By a reservation, or by the option."""
    hooks.alive(os.getpid())
    extra = {"SPANK_SLURMEXT_GPU_SLICE": "1g.10gb"} if sign == "option" else {}
    if sign == "file":
        tell(hooks, "wait\n")
    assert hooks.run("Prolog", **extra)[:2] == (0, "")
    assert (hooks.run_dir.parent / "asked").read_text() == "prolog\n"
    assert list(hooks.notes.iterdir()) == []
    assert hooks.run("Prolog", SLURM_JOB_ID="13")[:2] == (0, "")
    assert [note.name for note in hooks.notes.iterdir()] == ["13..prolog"]


def test_the_prolog_of_a_job_with_slices_waits_for_an_agent_that_is_restarted():
    """Nobody else makes them. That of another job goes on at once, and none waits for longer than its deadline."""
    with tempfile.TemporaryDirectory(prefix="sx", dir="/tmp") as name:
        hooks = Hooks(Path(name), deadline_s=20)
        asked: list[str] = []
        started: list[UnixServer] = []
        later = threading.Timer(1, lambda: started.append(begin(hooks, asked)))
        assert hooks.run("Prolog")[:2] == (0, "")
        assert "FileNotFoundError" in hooks.log[0] and asked == []
        later.start()
        assert hooks.run("Prolog", SPANK_SLURMEXT_GPU_SLICE="1g.10gb")[:2] == (0, "")
        assert asked == ["prolog"] and len(hooks.log) == 1
        started[0].stop()
    with tempfile.TemporaryDirectory(prefix="sx", dir="/tmp") as name:
        hooks = Hooks(Path(name), deadline_s=0.5)
        assert hooks.run("Prolog", SPANK_SLURMEXT_GPU_SLICE="1g.10gb")[:2] == (0, "")
        assert "no answer within 0.5 s" in hooks.log[0]


def begin(hooks, asked):
    """An agent that answers anything."""
    server = UnixServer(hooks.run_dir / "agent-n1.root.sock", mode=0o600,
                        answer=lambda _peer, request: asked.append(request["op"]) or {"ok": True})  # fmt: skip
    server.start()
    return server


def test_the_file_is_for_the_jobs_user_alone(tmp_path):
    """Another user reads nothing, and nobody writes."""
    if os.geteuid() != 0:
        pytest.skip("needs two users")
    from slurmext.agent.slices.taskfile import TaskFiles

    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        files = TaskFiles(Path(name, "x.slices"))
        files.give(7, 65533, [{"A": "b\nexport LD_PRELOAD=/evil"}])
        path = Path(name, "x.slices", "7")
        assert path.read_text() == "slots 1\n0 A=b export LD_PRELOAD=/evil\n"
        for user, readable in ((65533, True), (65534, False)):
            read = subprocess.run(["cat", path], user=user, capture_output=True, check=False)
            assert (read.returncode == 0) == readable
            write = subprocess.run(["touch", path.with_name("8")], user=user, capture_output=True, check=False)
            assert write.returncode != 0
        files.retain([8])
        assert not path.exists()
