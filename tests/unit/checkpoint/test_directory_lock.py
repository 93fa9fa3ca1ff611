"""Two jobs, or two Checkpointers of one, never write to the same directory; a helper of a dead one keeps nobody out."""

from __future__ import annotations

import threading
import time

import pytest

from slurmext.checkpoint import Checkpointer, CheckpointError

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
