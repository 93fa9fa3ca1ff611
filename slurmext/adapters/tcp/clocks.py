"""What a node's times are by our own clock."""

from __future__ import annotations

from collections import deque

_LOOKED_AT = 16
_JUMP_S = 5.0
"""A line that came so much later than others do was not on its way for so long: the clock was set."""


class NodeClock:
    """How far the clock at the other end of a connection is behind ours.

    Each line says when it was sent. The one that came fastest of those that came lately was hardly on its way at all.
    """

    def __init__(self) -> None:
        self._late_s: deque[float] = deque(maxlen=_LOOKED_AT)

    def behind_s(self, sent_s: float, now_s: float) -> float:
        """Seconds to add to its times, after a line of `sent_s` by its clock came at `now_s` by ours."""
        late_s = now_s - sent_s
        if self._late_s and late_s - min(self._late_s) > _JUMP_S:
            self._late_s.clear()
        self._late_s.append(late_s)
        return min(self._late_s)
