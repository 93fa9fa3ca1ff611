"""What a job's TaskProlog reads: a file for each job with slices, in a folder that only root can write.

    wait                        the slices are being made: look again
    miss the reason             there are none: the task must not start
    slots 2                     how many; then for each slot, which task LOCALID mod 2 gets:
    0 CUDA_VISIBLE_DEVICES=MIG-…
    1 CUDA_VISIBLE_DEVICES=MIG-…
    - SLURMEXT_GPU_SLICE=1g.10gb   what the job asked for, for tasks that have no such variable

Only the job's user may read it: the path of an MPS share's pipes in it is what opens that share.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from slurmext.agent.userfiles import UserFiles, one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)

WAIT = "wait\n"
_LONGEST, _LONGEST_WHY = 4000, 400


class TaskFiles(UserFiles):
    """The folder of these files; its name ends in `.slices` next to the agent's sockets."""

    def wait(self, job_id: int, uid: int) -> None:
        """The job will have slices."""
        self._write(job_id, uid, WAIT)

    def miss(self, job_id: int, uid: int, why: str) -> None:
        """The job must not start here."""
        self._write(job_id, uid, f"miss {one_line(why, _LONGEST_WHY)}\n")

    def give(
        self, job_id: int, uid: int, slots: Sequence[Mapping[str, str]], asked: Mapping[str, str] | None = None
    ) -> None:
        """The job's tasks take turns at these, each a set of environment variables; `asked` are the options'."""
        lines = [f"slots {len(slots)}"]
        lines += [f"{slot} {name}={value}" for slot, values in enumerate(slots) for name, value in values.items()]
        lines += [f"- {name}={value}" for name, value in (asked or {}).items()]
        self._write(job_id, uid, "".join(f"{one_line(line, _LONGEST)}\n" for line in lines))

    def _write(self, job_id: int, uid: int, text: str) -> None:
        try:
            self.put(job_id, uid, text)
        except OSError as error:
            log.warning("%s; the tasks of job %d will not start", error, job_id)
