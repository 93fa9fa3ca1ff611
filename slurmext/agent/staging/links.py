"""What this node's network links carry now, whoever uses them: a source that is busy sending is a bad one."""

from __future__ import annotations

import time
from pathlib import Path

_LEAST_S = 0.2


class Links:
    """Bits per second in each direction, all physical and virtual links but loopback together, since the last look."""

    def __init__(self, proc: Path = Path("/proc/net/dev")) -> None:
        self._proc = proc
        self._last = time.monotonic(), *self._bytes()
        self._rates = 0.0, 0.0

    def used_bps(self) -> tuple[float, float]:
        """(sent, received)."""
        now_s = time.monotonic()
        then_s, sent, received = self._last
        if now_s - then_s >= _LEAST_S:
            more_sent, more_received = self._bytes()
            span_s = now_s - then_s
            self._rates = max(0, more_sent - sent) * 8 / span_s, max(0, more_received - received) * 8 / span_s
            self._last = now_s, more_sent, more_received
        return self._rates

    def _bytes(self) -> tuple[int, int]:
        sent = received = 0
        try:
            lines = self._proc.read_text(encoding="ascii").splitlines()[2:]
        except OSError:
            return 0, 0
        for line in lines:
            name, _, counts = line.partition(":")
            if name.strip() != "lo":
                fields = counts.split()
                received += int(fields[0])
                sent += int(fields[8])
        return sent, received
