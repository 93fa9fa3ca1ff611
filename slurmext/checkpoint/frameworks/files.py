"""Files that a framework wrote by its own means: on disk, and never half there under their final name."""

from __future__ import annotations

import os
from pathlib import Path

COMPLETE = ".slurmext-complete"


def sync_tree(folder: Path) -> None:
    """Make every file of a folder, or a single file, durable, and the names of them."""
    for path in [folder, *folder.rglob("*")] if folder.is_dir() else [folder, folder.parent]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def mark_complete(folder: Path) -> None:
    """Everything is in the folder and on disk: say so in it."""
    sync_tree(folder)
    (folder / COMPLETE).touch()
    sync_tree(folder / COMPLETE)
    sync_tree(folder)


def replace_file(draft: Path, final: Path) -> None:
    """Put a written file in the place of another so that a crash leaves one or the other."""
    sync_tree(draft)
    draft.replace(final)
    sync_tree(final)
