"""How long a prolog may take: Slurm drains the node of one that it had to end, and requeues a batch job whose script
has not begun in time.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

LEFT_S = 10.0
"""Of Slurm's time, so much is left for the rest of the prolog and for other prologs of the site."""
BATCH_START_S = 10.0
"""Slurm's BatchStartTimeout where slurm.conf has none. When a node registers, Slurm looks for jobs that should have
begun so long ago, and 10 s more (tried on 22.05): that is LEFT_S.
"""
_BATCH = re.compile(r"^[ \t]*BatchStartTimeout[ \t]*=[ \t]*([0-9]+)", re.IGNORECASE | re.MULTILINE)
_LIMIT = re.compile(r"^[ \t]*(?:PrologTimeout|PrologEpilogTimeout)[ \t]*=[ \t]*([0-9]+)", re.IGNORECASE | re.MULTILINE)


def longest_prolog_s(conf: Path | None) -> float:
    """Seconds that slurm.conf leaves a prolog for waiting; infinite where it says nothing or cannot be read."""
    for path in (conf, Path("/etc/slurm/slurm.conf"), Path("/run/slurm/conf/slurm.conf")):
        if path is None:
            continue
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        begun = [float(value) for value in _BATCH.findall(text)] or [BATCH_START_S]
        return min(begun[-1], *(max(0.0, int(value) - LEFT_S) for value in _LIMIT.findall(text)), math.inf)
    return math.inf
