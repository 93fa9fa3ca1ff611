"""What a save gives its caller: when it is on disk, where, and what went wrong."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from slurmext.checkpoint.engine.errors import CheckpointError


class Ticket:
    """A save under way. Seconds: `snapshot_s` copying (training waits), `waited_s` for a buffer before that (training
    waits as well), `write_s` to disk once the copy is over, `durable_s` from the call to the commit.

    `nbytes`: this rank's bytes; `new_bytes`: those of them that were not linked, `early_bytes`: and were written while
    others were still being copied; `size_bytes`: the whole checkpoint's; `path`: its folder. But for `nbytes` and the
    first two times, once it is done.
    """

    def __init__(self, *, step: int, started_s: float, waited_s: float) -> None:
        self.step = step
        self.waited_s = waited_s
        self.snapshot_s = self.write_s = self.durable_s = 0.0
        self.nbytes = self.new_bytes = self.early_bytes = self.size_bytes = 0
        self.path: Path | None = None
        self.serial = 0
        """The checkpoint's number, where it is known before the commit: in rank 0, with saves to memory in between."""
        self.done_bytes = 0
        """Of `nbytes`, those written so far; with saves to memory in between only."""
        self.settled = threading.Event()
        """Set when older checkpoints were verified and removed as well."""
        self._started_s = started_s
        self._done = threading.Event()
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Whether it is on disk in every rank, or failed."""
        return self._done.is_set()

    def result(self, timeout_s: float | None = None) -> Path:
        """The checkpoint's folder, once it is on disk. Raises CheckpointError when it failed or takes longer."""
        if not self._done.wait(timeout_s):
            raise CheckpointError(f"step {self.step} is not on disk after {timeout_s:g} s")
        if self._error is not None:
            raise self._error
        assert self.path is not None  # noqa: S101 - set before it was done
        return self.path

    def wrote(self, done_bytes: int) -> None:
        """For the engine."""
        self.done_bytes = done_bytes

    def set_done(self, error: BaseException | None = None) -> None:
        """For the engine."""
        self._error = error
        self.durable_s = time.perf_counter() - self._started_s
        self._done.set()
