"""The processes of jobs that want to hear the checkpoint signal, and sending it to them.

Slurm signals the processes of srun's steps, and of a batch script only those in the script's process group. Workers of
torchrun, and whatever else has a session of its own, announce themselves here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass

from slurmext.agent.jobs import BATCH, parent_and_group, real_uid, started_ticks, stepd_step

log = logging.getLogger(__name__)

MOST_OF_JOB = 4096
"""More processes than any node has ranks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """A process of a user, by pid and start (ticks since boot, proc(5)), and the name of its signal (`USR1`)."""

    pid: int
    started: int
    uid: int
    signal: str


class Listeners:
    """By job. In memory only: a process announces itself again every minute, so a restarted agent learns of it."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._lock = threading.Lock()
        self._jobs: dict[int, dict[int, Listening]] = {}

    def add(self, job_id: int, *, pid: int, uid: int, signal_name: str) -> bool:
        """Take note of a process that asked; False when it is gone already, or when its job has too many."""
        started = started_ticks(pid, self._proc)
        if started is None:
            return False
        with self._lock:
            listening = self._jobs.setdefault(job_id, {})
            if pid not in listening and len(listening) >= MOST_OF_JOB:
                self._jobs[job_id] = listening = {
                    pid: one for pid, one in listening.items() if started_ticks(pid, self._proc) == one.started
                }
                if len(listening) >= MOST_OF_JOB:
                    return False
            listening[pid] = Listening(pid=pid, started=started, uid=uid, signal=signal_name)
        return True

    def forget(self, job_id: int) -> None:
        """The job has ended here."""
        with self._lock:
            self._jobs.pop(job_id, None)

    def tell(self, job_id: int, signal_name: str, *, reached: Callable[[int], bool] = lambda _pid: False) -> set[int]:
        """Send it to those of the job's processes that asked for it and that nobody else has `reached` (by pid);
        returns their pids.
        """
        with self._lock:
            wanted = [one for one in self._jobs.get(job_id, {}).values() if one.signal == signal_name]
        told = {one.pid for one in wanted if not reached(one.pid) and self._send(one)}
        if told:
            log.info("job %d: %s sent to %d processes that asked for it", job_id, signal_name, len(told))
        return told

    def _send(self, one: Listening) -> bool:
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(one.pid)
            try:
                # Looked at once it is held: pids are used anew. One that is more than its user is not ours to signal.
                if started_ticks(one.pid, self._proc) == one.started and real_uid(one.pid, self._proc) == one.uid:
                    signal.pidfd_send_signal(handle, signal.Signals["SIG" + one.signal])
                    return True
            finally:
                os.close(handle)
        return False


def reached_by_slurm(pid: int, *, script: bool, proc: str = "/proc") -> bool:
    """Whether a process has the signal from Slurm already: a second one would make it save again.

    Those of srun's steps have it, and those in the process group of the batch script, unless Slurm was told to leave
    the script alone (`script`: it is ours to tell).
    """
    own_group, child = 0, pid
    for _ in range(256):
        above, group = parent_and_group(child, proc)
        own_group = own_group or group
        if above <= 1:
            return False
        if (step := stepd_step(above, proc)) is not None:
            return step[1].isdecimal() or (step[1] == BATCH and not script and own_group == group)
        child = above
    return False
