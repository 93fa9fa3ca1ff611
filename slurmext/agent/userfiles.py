"""Files that an agent leaves for the tasks of jobs: one for each job, which the job's user may read and nobody else."""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_UNSAFE = re.compile(r"[^\x20-\x7e]")


class UserFiles:
    """A folder of them, which only root can write."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o755, exist_ok=True)
        folder.chmod(0o755)
        self._folder = folder

    def remove(self, job_id: int) -> None:
        """The job has left."""
        with contextlib.suppress(OSError):
            (self._folder / str(job_id)).unlink(missing_ok=True)

    def retain(self, job_ids: Collection[int]) -> None:
        """Remove the files of all other jobs."""
        keep = {str(job_id) for job_id in job_ids}
        for name in os.listdir(self._folder):
            if name not in keep:
                with contextlib.suppress(OSError):
                    (self._folder / name).unlink()

    def put(self, job_id: int, uid: int, text: str) -> None:
        """Replace the job's file in one step. Raises OSError."""
        draft = self._folder / f".{job_id}.new"
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400)
        try:
            os.write(descriptor, text.encode())
            if uid != os.geteuid():
                os.fchown(descriptor, uid, -1)
        finally:
            os.close(descriptor)
        draft.replace(self._folder / str(job_id))


def one_line(text: str, most: int) -> str:
    """As a shell's `read` takes it: printable ASCII, at most so many characters."""
    return _UNSAFE.sub(" ", text)[:most]
