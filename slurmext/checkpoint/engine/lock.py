"""One writer per directory: two jobs that share one would remove each other's checkpoints."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

from slurmext.checkpoint.engine.errors import CheckpointError, write_error

if TYPE_CHECKING:
    from pathlib import Path

NAME = ".lock"
WAIT_S = 10.0
"""A requeued job may start while the last process of its former run is still on its way out."""
LEAVING_WAIT_S = 150.0
"""Longer than such a process stays that cannot learn whether Slurm still counts on it."""
LEAVING = ", on its way out"
NEXT = ".lock-next"
"""There while a job's next run waits for a process of the one before that said it is LEAVING."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_held: set[str] = set()


class DirectoryLock:
    """An fcntl lock: it ends with the process, forked helpers do not inherit it, and NFS and Lustre carry it."""

    def __init__(self, directory: Path, *, wait_s: float = WAIT_S) -> None:
        self._path = directory / NAME
        self._key = os.path.realpath(self._path)
        if self._key in _held:
            raise CheckpointError(
                f"this process already has a Checkpointer for {directory}: use that, close() it, or give another dir="
            )
        self._owner = os.getpid()
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise write_error(directory, error) from error
        try:
            self._take(directory, time.monotonic() + wait_s)
        except BaseException:
            os.close(self._descriptor)
            raise
        _held.add(self._key)

    def superseded(self) -> bool:
        """For a process on its way out, which this says in the lock: whether its job's next run waits for it."""
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, self._me(LEAVING), 0)
            return NEXT in os.listdir(self._path.parent)  # a network file system answers this afresh
        return False

    def release(self) -> None:
        """Let go. A forked helper that runs this by accident does nothing."""
        if self._key in _held and self._owner == os.getpid():
            _held.discard(self._key)
            os.close(self._descriptor)

    def _take(self, directory: Path, until_s: float) -> None:
        waited_for = False
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in _NO_LOCKS:
                    sys.stderr.write(f"slurmext.checkpoint: {directory} is on a file system without locks; "
                                     "make sure that only one job uses it\n")  # fmt: skip
                    return
                if error.errno not in {errno.EACCES, errno.EAGAIN}:
                    raise write_error(directory, error) from error
            holder = os.pread(self._descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            if holder.endswith(LEAVING):
                if not waited_for:
                    waited_for, until_s = True, until_s + LEAVING_WAIT_S - WAIT_S
                if holder.partition(" (")[0] == self._job():
                    with contextlib.suppress(OSError):
                        self._path.with_name(NEXT).touch(mode=0o600)
            if time.monotonic() >= until_s:
                raise CheckpointError(
                    f"{holder} is using the checkpoint directory {directory}: wait for it to end, or give this job its "
                    "own with --ckpt-dir"
                )
            time.sleep(0.1)
        with contextlib.suppress(OSError):
            self._path.with_name(NEXT).unlink()  # who still waits says so again
        with contextlib.suppress(OSError):  # a full disk: the lock holds without the name
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, self._me(), 0)

    @staticmethod
    def _job() -> str:
        return f"job {os.environ.get('SLURM_JOB_ID', '-')}"

    def _me(self, more: str = "") -> bytes:
        return f"{self._job()} (pid {os.getpid()} on {socket.gethostname()}){more}\n".encode()
