"""The little that the agent asks Slurm itself, never from a hook that Slurm waits for unless there is no other way."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from slurmext.adapters.slurm_cli.runner import SlurmRunner

log = logging.getLogger(__name__)


class SlurmHere:
    """Slurm's view of one node."""

    def __init__(self, runner: SlurmRunner, node: str) -> None:
        self._runner, self._node = runner, node

    def jobs(self) -> set[int] | None:
        """Numbers of the jobs that have this node, completing ones included; None when Slurm does not answer."""
        states = "running,completing,configuring,suspended,stopped,signaling,stage_out,resizing"
        try:
            told = self._runner.must("squeue", ["-h", "-w", self._node, "-t", states, "-o", "%A"])
        except SlurmextError as error:
            log.info("%s", error)
            return None
        return {int(word) for word in told.split() if word.isdecimal()}

    def name_of(self, job_id: int) -> str | None:
        """`12_3` for a task of an array, else the number; None when Slurm does not answer."""
        try:
            told = self._runner.must("squeue", ["-h", "-j", str(job_id), "-t", "all", "-o", "%A %i"])
        except SlurmextError as error:
            log.info("%s", error)
            return None
        pairs = (line.split() for line in told.splitlines())
        return next((pair[1] for pair in pairs if len(pair) == 2 and pair[0] == str(job_id)), None)  # noqa: PLR2004
