"""What a job's TaskProlog reads: a file for each job with slices, in a folder that only root can write.

    wait                        the slices are being made: look again
    miss the reason             there are none: the task must not start
    slots 2                     how many; then for each slot, which task LOCALID mod 2 gets:
    0 CUDA_VISIBLE_DEVICES=MIG-…
    1 CUDA_VISIBLE_DEVICES=MIG-…

Only the job's user may read it: the path of an MPS share's pipes in it is what opens that share.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

log = logging.getLogger(__name__)

WAIT = "wait\n"
_UNSAFE = re.compile(r"[^\x20-\x7e]")
_LONGEST = 400


class TaskFiles:
    """The folder of these files; its name ends in `.slices` next to the agent's sockets."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o755, exist_ok=True)
        folder.chmod(0o755)
        self._folder = folder

    def wait(self, job_id: int, uid: int) -> None:
        """The job will have slices."""
        self._write(job_id, uid, WAIT)

    def miss(self, job_id: int, uid: int, why: str) -> None:
        """The job must not start here."""
        self._write(job_id, uid, f"miss {_UNSAFE.sub(' ', why)[:_LONGEST]}\n")

    def give(self, job_id: int, uid: int, slots: Sequence[Mapping[str, str]]) -> None:
        """The job's tasks take turns at these, each a set of environment variables."""
        lines = [f"slots {len(slots)}"]
        lines += [f"{slot} {name}={value}" for slot, values in enumerate(slots) for name, value in values.items()]
        self._write(job_id, uid, "".join(f"{_UNSAFE.sub(' ', line)}\n" for line in lines))

    def remove(self, job_id: int) -> None:
        """The job has no slices here any more."""
        with contextlib.suppress(OSError):
            (self._folder / str(job_id)).unlink(missing_ok=True)

    def retain(self, job_ids: Collection[int]) -> None:
        """Remove the files of all other jobs."""
        keep = {str(job_id) for job_id in job_ids}
        for name in os.listdir(self._folder):
            if name not in keep:
                with contextlib.suppress(OSError):
                    (self._folder / name).unlink()

    def _write(self, job_id: int, uid: int, text: str) -> None:
        draft = self._folder / f".{job_id}.new"
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
            log.warning("%s: %s; the tasks of job %d will not start", draft, error.strerror, job_id)
