"""Devices that gres.conf names: Slurm keeps them from jobs that were not given them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

PLACES = (Path("/etc/slurm/gres.conf"), Path("/run/slurm/conf/gres.conf"))
"""Where it is on a node; the second where slurmd fetches its configuration from slurmctld."""
_MEMORY_MAJOR = 1
"""/dev/null and its like, which stand for GPUs where there are none."""
_FILE = re.compile(r"\bFile=(\S+)", re.IGNORECASE)


def devices_of_gres(paths: Sequence[Path] = PLACES) -> tuple[tuple[int, int], ...]:
    """Major and minor numbers of the character devices named in the first of these files that is there."""
    for path in paths:
        with suppress(OSError):
            text = path.read_text(encoding="utf-8", errors="replace")
            names = (name for line in text.splitlines() for name in _FILE.findall(line.partition("#")[0]))
            return tuple(sorted({found for name in names for found in _numbers(name)}))
    return ()


def _numbers(names: str) -> set[tuple[int, int]]:
    """Of `/dev/nvidia[0-7]` and its like."""
    found: set[tuple[int, int]] = set()
    with suppress(NodeSetException):
        for name in NodeSet(names, resolver=RESOLVER_NOGROUP):
            with suppress(OSError):
                status = Path(name).stat()
                if stat.S_ISCHR(status.st_mode) and os.major(status.st_rdev) != _MEMORY_MAJOR:
                    found.add((os.major(status.st_rdev), os.minor(status.st_rdev)))
    return found
