"""How long a prolog may take: Slurm drains the node of one that it had to end."""

from __future__ import annotations

import math
import re
from pathlib import Path

LEFT_S = 10.0
"""Of Slurm's time, so much is left for the rest of the prolog and for other prologs of the site."""
_LIMIT = re.compile(r"^[ \t]*(?:PrologTimeout|PrologEpilogTimeout)[ \t]*=[ \t]*([0-9]+)", re.IGNORECASE | re.MULTILINE)


def longest_prolog_s(conf: Path | None) -> float:
    """Seconds that slurm.conf leaves a prolog for waiting; infinite where it says nothing or cannot be read."""
    for path in (conf, Path("/etc/slurm/slurm.conf"), Path("/run/slurm/conf/slurm.conf")):
        if path is None:
            continue
        try:
            found = _LIMIT.findall(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        return min((max(0.0, int(value) - LEFT_S) for value in found), default=math.inf)
    return math.inf
