"""How far a copy has come, for whoever follows behind it."""

from __future__ import annotations

import threading

from slurmext.checkpoint.engine.errors import CheckpointError


class Progress:
    """Of parts that are numbered in order and done in any."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._apart: set[int] = set()
        self._first = 0
        self._over = False
        self._failed: BaseException | None = None

    @property
    def over(self) -> bool:
        """Whether everything is done, or given up."""
        return self._over

    def done(self, number: int) -> None:
        """Part `number` is done."""
        with self._changed:
            self._apart.add(number)
            while self._first in self._apart:
                self._apart.discard(self._first)
                self._first += 1
            self._changed.notify_all()

    def end(self, failed: BaseException | None = None) -> None:
        """All parts are, or no more will be."""
        with self._changed:
            self._over, self._failed = True, failed
            self._changed.notify_all()

    def wait(self, count: int | None = None) -> None:
        """Until the first `count` are done, all of them when that is not given. Raises CheckpointError."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or (count is not None and self._first >= count))
            if self._failed is not None:
                raise CheckpointError(f"the state could not be copied: {self._failed}") from self._failed
