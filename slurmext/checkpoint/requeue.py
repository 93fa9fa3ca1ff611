"""A job of `--ckpt=…,chain` requeues itself where nobody else does: on plain Slurm, or while slurmextd is away.

With slurmextd the job is told earlier, and requeued as soon as it has saved. What is here then never comes to act.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping

from slurmext.checkpoint import deadline

CHAIN = "chain"
MOST_LINKS = 1000
"""Restarts after which a job is not requeued again for its limit: a program that never ends must not run for ever."""
LAST_MOMENT_S = 15.0
"""So long before the end a job requeues itself that an agent knows to have saved: slurmextd had its time to do it."""
MOST_OF_RUN = 0.5
"""Of a run whose limit is shorter than its grace, this part at least is used."""
_BEGAN_S = time.time()
_SCONTROL_S = 30.0


def wanted(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a job that asked to go on in another run when its time limit ends."""
    restarts = env.get("SLURM_RESTART_COUNT", "0")
    return (
        CHAIN in env.get("SLURMEXT_CKPT", "").split(",")[1:]
        and env.get("SLURM_JOB_ID", "").isdecimal()
        and int(restarts if restarts.isdecimal() else "0") < MOST_LINKS
    )


def saved_for_limit(*, known: bool) -> threading.Thread | None:
    """See to it that there is another run: this one has saved because its limit is near, and an agent has `known`."""
    if not wanted():
        return None
    thread = threading.Thread(target=requeue, kwargs={"known": known}, name="slurmext-requeue", daemon=True)
    thread.start()
    return thread


def requeue(
    *,
    known: bool,
    ask: Callable[[], tuple[str, float | None] | None] = deadline.ask_slurm,
    sleep: Callable[[float], object] = time.sleep,
    now: Callable[[], float] = time.time,
) -> bool:
    """Have Slurm requeue this job, when it is time for that and it still runs under the limit that it saved for."""
    before = ask()
    if before is None or before[0] != deadline.RUNNING or before[1] is None:
        return False
    end_s = before[1]
    at_s = max(_BEGAN_S + MOST_OF_RUN * (end_s - _BEGAN_S), end_s - LAST_MOMENT_S if known else 0)
    if at_s > now():
        sleep(at_s - now())
        if ask() != before:
            return False  # its limit was raised, or somebody has requeued it
    return _requeued(os.environ["SLURM_JOB_ID"])


def _requeued(job: str) -> bool:
    """Of a heterogeneous job SLURM_JOB_ID is the number of the whole, in all its steps."""
    command = shutil.which("scontrol")
    if command is None:
        return _failed(job, "there is no scontrol here")
    try:
        done = subprocess.run(
            [command, "requeue", job], capture_output=True, text=True, timeout=_SCONTROL_S, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return _failed(job, str(error))
    if done.returncode != 0:
        return _failed(job, (done.stderr.strip().splitlines() or ["scontrol failed"])[-1])
    sys.stderr.write(f"slurmext.checkpoint: job {job} has saved and is requeued, for its time limit ends soon\n")
    return True


def _failed(job: str, why: str) -> bool:
    sys.stderr.write(f"slurmext.checkpoint: job {job} has saved, but could not be requeued: {why}\n")
    return False
