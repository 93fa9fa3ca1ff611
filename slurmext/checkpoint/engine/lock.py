"""One writer per directory: two jobs that share one would remove each other's checkpoints."""

from __future__ import annotations

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

    def release(self) -> None:
        """Let go. A forked helper that runs this by accident does nothing."""
        if self._key in _held and self._owner == os.getpid():
            _held.discard(self._key)
            os.close(self._descriptor)

    def _take(self, directory: Path, until_s: float) -> None:
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
            if time.monotonic() >= until_s:
                holder = os.pread(self._descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                raise CheckpointError(
                    f"{holder} is using the checkpoint directory {directory}: wait for it to end, or give this job its "
                    "own with --ckpt-dir"
                )
            time.sleep(0.1)
        me = f"job {os.environ.get('SLURM_JOB_ID', '-')} (pid {os.getpid()} on {socket.gethostname()})\n"
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, me.encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds without the name
