"""A save that is seen through beside the checkpoint thread, which goes on to hear and to make others."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Aside:
    """At most one at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether one is under way."""
        return self._thread is not None and self._thread.is_alive()

    def run(self, work: Callable[[], None]) -> None:
        """See it through; `work` raises nothing."""
        self._thread = threading.Thread(target=work, name="slurmext-aside", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for it."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
