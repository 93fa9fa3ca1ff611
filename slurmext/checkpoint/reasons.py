"""Why a save is made."""

from __future__ import annotations

from collections.abc import Collection

Reason = str
SIGNAL, TERM, DEADLINE, TIME, REQUEST = "signal", "term", "deadline", "time", "request"
MEMORY = "memory"
"""It is time for a save in memory: only if no rank has another reason to save."""
URGENT = frozenset({SIGNAL, TERM, DEADLINE})
_WEIGHTIEST_FIRST = (TERM, SIGNAL, DEADLINE, REQUEST, TIME, MEMORY)


def weightiest(reasons: Collection[Reason]) -> Reason:
    """The one that a save of all ranks is made for."""
    return next((one for one in _WEIGHTIEST_FIRST if one in reasons), REQUEST)
