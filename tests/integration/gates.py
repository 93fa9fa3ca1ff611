"""Gates that jobs wait at: what a test wants to see first is seen however slow the machine is."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slurmext.devcluster import Devcluster

_numbers = itertools.count(1)


class Gate:
    """Shut until `open`; `wait` is a line of a job's script that ends then, `pass_by` one that stops nobody.

    Slurm calls a job RUNNING while its prolog still runs: `reached` is true of those whose scripts are there.
    """

    def __init__(self, cluster: Devcluster) -> None:
        self._path = cluster.layout.root / "scratch" / f"gate-{next(_numbers)}"
        self.pass_by = f"touch {self._path}.$SLURM_JOB_ID"
        self.wait = f"{self.pass_by}; while [ ! -e {self._path} ]; do sleep 0.1; done"

    def reached(self, *jobs: str) -> bool:
        """Whether they all came here."""
        return all(self._path.with_name(f"{self._path.name}.{job}").exists() for job in jobs)

    def open(self) -> None:
        """Whoever waits goes on."""
        self._path.touch()
