"""Two jobs, or two Checkpointers of one, never write to the same directory; a helper of a dead one keeps nobody out."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from slurmext.checkpoint import Checkpointer, CheckpointError
from slurmext.checkpoint.engine import lock
from slurmext.checkpoint.engine.lock import DirectoryLock
from tests.waiting import until

from .programs import run, save_steps


def test_two_jobs_cannot_share_a_directory(tmp_path):
    """The second job waits for the first, which may be on its way out."""
    program = run("""
        import sys, time
        from slurmext.checkpoint import Checkpointer
        Checkpointer({}, sys.argv[1]).restore(); print("held", flush=True); time.sleep(60)
    """, tmp_path, SLURM_JOB_ID="41")  # fmt: skip
    assert program.stdout.readline() == "held\n"
    threading.Timer(0.5, program.kill).start()
    save_steps(tmp_path, 1)  # waits for the holder to end
    program.communicate()


def test_the_run_before_makes_way_for_the_next(tmp_path, monkeypatch):
    """Told to end it stays while Slurm says that the job runs; where that is the next run already, it goes at once."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho 41 RUNNING N/A\n")
    squeue.chmod(0o755)
    program = run("""
        import sys, time
        from slurmext.checkpoint import Checkpointer
        ckpt = Checkpointer({}, sys.argv[1]); ckpt.restore(); print("held", flush=True)
        while True:
            if ckpt.due():
                ckpt.save(ckpt.gate.step)
            time.sleep(0.01)
    """, tmp_path / "saved", SLURM_JOB_ID="41", PATH=f"{squeue.parent}:{os.environ['PATH']}")  # fmt: skip
    assert program.stdout.readline() == "held\n"
    program.terminate()
    until(lambda: "on its way out" in (tmp_path / "saved" / ".lock").read_text())
    assert program.poll() is None
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_JOB_END_TIME", "2000000000")
    with pytest.raises(CheckpointError, match="job 41 .* on its way out is using"):
        DirectoryLock(tmp_path / "saved", wait_s=lock.WAIT_S - lock.LEAVING_WAIT_S)
    assert not (tmp_path / "saved" / lock.NEXT).exists()
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    save_steps(tmp_path / "saved", 7)
    assert program.wait(10) == -signal.SIGTERM
    assert {path.name for path in (tmp_path / "saved").iterdir() if path.name.startswith(".lock")} == {".lock"}


def test_two_checkpointers_in_one_process(tmp_path):
    """Two for one directory would lose each other's work as two jobs would."""
    with Checkpointer({}, tmp_path) as first:
        first.save(1)
        with pytest.raises(CheckpointError, match="already has a Checkpointer"):
            Checkpointer({}, tmp_path).restore()
    save_steps(tmp_path, 2)


def test_a_forked_helper_does_not_hold_the_directory(tmp_path):
    """A data loader that outlives a killed training process does not keep the next run out."""
    program = run("""
        import os, sys, time
        from slurmext.checkpoint import Checkpointer
        Checkpointer({}, sys.argv[1]).restore()
        if os.fork() == 0:
            os.close(1); os.close(2); time.sleep(20); os._exit(0)
        print("held", flush=True)
        os.kill(os.getpid(), 9)
    """, tmp_path)  # fmt: skip
    program.communicate(timeout=10)
    started = time.monotonic()
    save_steps(tmp_path, 1)
    assert time.monotonic() - started < 5
