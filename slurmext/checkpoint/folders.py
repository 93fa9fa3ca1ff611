"""Temporary directories that go with their process: those of processes that were killed go when the next one is made.

A process holds a lock on its directory (flock), which the kernel drops with it, whatever it dies of.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "slurmext-copies-"
_NEW = ".new-"


def own_folder() -> tuple[Path, int]:
    """A new directory of this process, and the descriptor that keeps it: it may go once that is closed."""
    remove_abandoned(Path(tempfile.gettempdir()))
    # It has a name that others look at only when it is locked.
    draft = Path(tempfile.mkdtemp(prefix=_NEW + PREFIX))
    descriptor = _locked(draft)
    if descriptor is None:  # a file system without locks: nobody gets one, and it stays
        descriptor = os.open(draft, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return draft.rename(draft.with_name(draft.name.removeprefix(_NEW))), descriptor


def remove_abandoned(parent: Path) -> None:
    """Remove this user's directories there that no process holds. Never raises."""
    with contextlib.suppress(OSError):
        for name in os.listdir(parent):
            if not name.startswith(PREFIX) or (descriptor := _locked(parent / name)) is None:
                continue
            try:
                shutil.rmtree(parent / name, ignore_errors=True)  # links in it are removed, not followed
            finally:
                os.close(descriptor)


def _locked(path: Path) -> int | None:
    """A descriptor of this user's own directory with the lock on it; None when somebody else has that, or for others'
    directories, links and files.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None
