"""The checkpoint signal: a handler that only remembers that it came."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from slurmext.checkpoint.errors import CheckpointError


def wanted_signal(spec: str | None = None) -> signal.Signals:
    """The signal of `--ckpt` (SIGNAL@SECONDS, else USR1; `,chain` may follow), as the job finds it in SLURMEXT_CKPT."""
    spec = os.environ.get("SLURMEXT_CKPT", "auto") if spec is None else spec
    name = spec.partition(",")[0].partition("@")[0] or "auto"
    if name in {"auto", "transparent"}:
        return signal.SIGUSR1
    try:
        return signal.Signals["SIG" + name.removeprefix("SIG")]
    except KeyError:
        raise CheckpointError(
            f"SLURMEXT_CKPT={spec}: no such signal; use 'auto' or SIGNAL@SECONDS like USR1@60"
        ) from None


class SignalFlag:
    """Remembers when the signal came. A handler the program had is still called after ours."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.received_s: float | None = None
        """Unix seconds of the first signal since the last `clear`, None when there was none."""
        self._former: Callable[[int, Any], object] | None = None
        self._installed = False

    def install(self) -> None:
        """Put the handler in place, once. Raises CheckpointError outside the main thread."""
        if self._installed and signal.getsignal(self.number) == self._handle:
            return
        if threading.current_thread() is not threading.main_thread():
            raise CheckpointError(
                "only the main thread can take signals: make the Checkpointer there, or pass signals=False and save "
                "on your own schedule"
            )
        former = signal.signal(self.number, self._handle)
        self._former = former if callable(former) and former != self._handle else None
        self._installed = True

    def clear(self) -> None:
        """Forget what came."""
        self.received_s = None

    def remove(self) -> None:
        """Put back the handler that was there, if ours still stands."""
        if self._installed and signal.getsignal(self.number) == self._handle:
            # Not the default action: that would end the process when a late signal arrives.
            signal.signal(self.number, self._former or signal.SIG_IGN)
        self._installed = False

    def _handle(self, number: int, frame: Any) -> None:
        if self.received_s is None:
            self.received_s = time.time()
        if self._former is not None:
            self._former(number, frame)
