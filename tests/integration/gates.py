"""Gates that jobs wait at: what a test wants to see first is seen however slow the machine is."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slurmext.devcluster import Devcluster

_numbers = itertools.count(1)


class Gate:
    """Shut until `open`; `wait` is a line of a job's script that ends then."""

    def __init__(self, cluster: Devcluster) -> None:
        self._path = cluster.layout.root / "scratch" / f"gate-{next(_numbers)}"
        self.wait = f"while [ ! -e {self._path} ]; do sleep 0.1; done"

    def open(self) -> None:
        """Whoever waits goes on."""
        self._path.touch()
