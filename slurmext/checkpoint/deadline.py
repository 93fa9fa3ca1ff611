"""When Slurm ends the job, and how long it waits after the checkpoint signal."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime

AUTO_GRACE_S = 60.0
ASK_S = 10.0
RUNNING = "RUNNING"


def grace_s(env: Mapping[str, str] = os.environ) -> float:
    """The seconds of `--ckpt=SIGNAL@SECONDS`, 60 for `auto`."""
    seconds = env.get("SLURMEXT_CKPT", "").partition(",")[0].partition("@")[2]
    return float(seconds) if seconds.isdecimal() else AUTO_GRACE_S


def known_end_s(env: Mapping[str, str] = os.environ) -> float | None:
    """The end of the job's time limit in Unix seconds, where Slurm tells its jobs (23.02 and later)."""
    end = env.get("SLURM_JOB_END_TIME", "")
    return float(end) if end.isdecimal() and int(end) else None


def ask_slurm(env: Mapping[str, str] = os.environ, *, timeout_s: float = ASK_S) -> tuple[str, float | None] | None:
    """The job's state and the end of its time limit, as squeue says now. None where it cannot be asked.

    One process of a job asks, at its start, just before the end, and after a TERM: no burden on the controller.
    """
    job, command = env.get("SLURM_JOB_ID", ""), shutil.which("squeue")
    if not job.isdecimal() or command is None:
        return None
    argv = [command, "--noheader", "--jobs", job, "--states=all", "--format=%A %T %e"]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_s, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == job:  # noqa: PLR2004
            try:
                end = datetime.fromisoformat(words[2]).timestamp()  # in the node's own time zone, as squeue prints it
            except ValueError:
                end = None
            return words[1], end
    return None


def seconds_left(end_s: float | None) -> float:
    """Until then; a day when there is no end."""
    return 86400.0 if end_s is None else end_s - time.time()
