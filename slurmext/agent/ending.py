"""Kills what is left of a job that was requeued and does not go.

Slurm sends TERM and then waits KillWait seconds, 30 by default and 5 at least, before it kills. A job that was warned
and had its grace need not be waited for so long: others are guaranteed its GPUs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import time
from pathlib import Path

from slurmext.agent.jobs import parent_of, started_ticks, stepd_job

log = logging.getLogger(__name__)

_PASSES, _PAUSE_S = 5, 0.02
"""A process may fork while it is looked for."""
_TICKS = os.sysconf("SC_CLK_TCK")


def end_job(job_id: int, *, started_before_s: float, cluster: str, proc: str = "/proc") -> int:
    """KILL the processes below the job's slurmstepds that began before then; returns how many.

    The slurmstepds themselves stay and report the job's end. A slurmstepd whose slurm.conf names another
    cluster is another one's on this host.
    """
    stepds = {
        pid
        for pid in pids(proc)
        if stepd_job(pid, proc) == job_id and _began_s(pid, proc) < started_before_s and is_ours(pid, cluster, proc)
    }
    killed = 0
    for _ in range(_PASSES):
        # All are held before the first is killed: its children would no longer be found below the slurmstepd.
        with contextlib.ExitStack() as held:
            below = [pid for pid in pids(proc) if pid not in stepds and is_below(pid, stepds, proc)] if stepds else []
            handles = [handle for pid in below if (handle := _hold(pid, stepds, proc, held)) is not None]
            for handle in handles:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
        killed += len(handles)
        if not handles:
            break
        time.sleep(_PAUSE_S)
    if killed:
        log.info("job %d: %d processes that did not end were killed", job_id, killed)
    return killed


def pids(proc: str) -> list[int]:
    """Every process."""
    return [int(name) for name in os.listdir(proc) if name.isdigit()]


def is_below(pid: int, stepds: set[int], proc: str) -> bool:
    """Whether a process has one of these above it."""
    for _ in range(256):
        pid = parent_of(pid, proc)
        if pid <= 1:
            return False
        if pid in stepds:
            return True
    return False


def _hold(pid: int, stepds: set[int], proc: str, held: contextlib.ExitStack) -> int | None:
    """A descriptor of the process, looked at again once it is held: pids are used anew. None when it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return None
    held.callback(os.close, handle)
    return handle if is_below(pid, stepds, proc) else None


def _began_s(pid: int, proc: str) -> float:
    """Unix seconds; the far future for a process that is gone."""
    ticks = started_ticks(pid, proc)
    if ticks is None:
        return float("inf")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / _TICKS


def is_ours(pid: int, cluster: str, proc: str) -> bool:
    """By the SLURM_CONF that slurmd started it with; without one there is only one Slurm on the host."""
    try:
        with open(f"{proc}/{pid}/environ", "rb") as file:  # noqa: PTH123
            values = dict(entry.partition(b"=")[::2] for entry in file.read(1 << 20).split(b"\0"))
        conf = values.get(b"SLURM_CONF")
        text = "" if conf is None else Path(os.fsdecode(conf)).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    named = re.search(r"^\s*ClusterName\s*=\s*([^\s#]+)", text, re.IGNORECASE | re.MULTILINE)
    return named is None or named[1].lower() == cluster.lower()
