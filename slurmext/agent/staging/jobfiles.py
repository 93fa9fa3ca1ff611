"""What a job's TaskProlog hands to Slurm about the job's models: a file of its lines for each job.

    export SLURMEXT_STAGED=/dev/shm/slurmext/models/org--model/main
    export SLURMEXT_PRELOAD_FALLBACK=org/other@main=/shared/other
    print slurmext: org/other@main is not staged on n1 (no room): it is read from /shared/other

Only the job's user may read it: where a private model is stored is nobody else's business.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from slurmext.agent.userfiles import UserFiles, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

_LONGEST = 8000


class JobFiles(UserFiles):
    """The folder of these files; its name ends in `.models` next to the agent's sockets."""

    def write(self, job_id: int, uid: int, lines: Sequence[str]) -> None:
        """The job's tasks get these lines. What cannot be written is logged: the job starts without."""
        try:
            self.put(job_id, uid, "".join(f"{one_line(line, _LONGEST)}\n" for line in lines))
        except OSError as error:
            log.warning("%s; job %d is not told of its models", error, job_id)
