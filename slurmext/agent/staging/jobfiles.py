"""What a job's TaskProlog hands to Slurm about the job's models: a file of its lines for each job.

    export SLURMEXT_STAGED=/dev/shm/slurmext/models/org--model/main
    export SLURMEXT_PRELOAD_FALLBACK=org/other@main=/shared/other
    print slurmext: org/other@main is not staged on n1 (no room): it is read from /shared/other

Only the job's user may read it: where a private model is stored is nobody else's business.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

log = logging.getLogger(__name__)

_UNSAFE = re.compile(r"[^\x20-\x7e]")
_LONGEST = 8000


class JobFiles:
    """The folder of these files; its name ends in `.models` next to the agent's sockets."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o755, exist_ok=True)
        folder.chmod(0o755)
        self._folder = folder

    def write(self, job_id: int, uid: int, lines: Sequence[str]) -> None:
        """The job's tasks get these lines. What cannot be written is logged: the job starts without."""
        draft = self._folder / f".{job_id}.new"
        text = "".join(f"{_UNSAFE.sub('?', line)[:_LONGEST]}\n" for line in lines)
        try:
            draft.unlink(missing_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400)
            try:
                os.write(descriptor, text.encode())
                if uid != os.geteuid():
                    os.fchown(descriptor, uid, -1)
            finally:
                os.close(descriptor)
            draft.replace(self._folder / str(job_id))
        except OSError as error:
            log.warning("%s: %s; job %d is not told of its models", draft, error.strerror, job_id)

    def remove(self, job_id: int) -> None:
        """The job has ended here."""
        with contextlib.suppress(OSError):
            (self._folder / str(job_id)).unlink(missing_ok=True)

    def retain(self, job_ids: Collection[int]) -> None:
        """Remove the files of all other jobs."""
        keep = {str(job_id) for job_id in job_ids}
        for name in os.listdir(self._folder):
            if name not in keep:
                with contextlib.suppress(OSError):
                    (self._folder / name).unlink()
