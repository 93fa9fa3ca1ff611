"""The processes of a batch script that catch a signal.

A signal of the user's own choice (`--ckpt=USR2@60`) is not sent to the script as a whole: a shell without a trap for it
would die, and the job with it. Who catches it (proc(5), status, SigCgt) gets it.
"""

from __future__ import annotations

import contextlib
import os
import signal

from slurmext.agent.ending import is_below, is_ours, pids
from slurmext.agent.jobs import is_batch_stepd


def tell_script(job_id: int, number: signal.Signals, *, cluster: str, besides: set[int], proc: str = "/proc") -> int:
    """Send it to the script's processes that catch it, but for those that got it already; returns how many."""
    stepds = {pid for pid in pids(proc) if is_batch_stepd(pid, job_id, proc) and is_ours(pid, cluster, proc)}
    if not stepds:
        return 0
    told = 0
    for pid in pids(proc):
        if pid in besides or pid in stepds or not is_below(pid, stepds, proc):
            continue
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(pid)
            try:
                # Looked at once it is held: pids are used anew.
                if is_below(pid, stepds, proc) and catches(pid, number, proc):
                    signal.pidfd_send_signal(handle, number)
                    told += 1
            finally:
                os.close(handle)
    return told


def catches(pid: int, number: signal.Signals, proc: str = "/proc") -> bool:
    """Whether a process has a handler for a signal."""
    with open(f"{proc}/{pid}/status", "rb") as file:  # noqa: PTH123
        line = next((line for line in file if line.startswith(b"SigCgt:")), b"SigCgt: 0")
    return bool(int(line.split()[1], 16) >> (number - 1) & 1)
