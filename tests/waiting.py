"""Waiting until something is so, in place of waiting for as long as it should take."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 45.0
"""Machines that run tests are shared: only a failing test ever waits so long."""


def until(
    what: Callable[[], Any],
    timeout_s: float = PATIENCE_S,
    *,
    scene: Callable[[], object] = lambda: "it did not come to that",
    pause_s: float = 0.05,
) -> Any:
    """The first true value of `what`; `scene` is what a test that waited in vain shows."""
    deadline = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < deadline, scene()
        time.sleep(pause_s)
    return found
