"""submitit: `Checkpointable` as submitit's own, but a job that is killed while it saves loses nothing.

submitit removes the old file before it renames the new one, syncs neither, and refuses to save for ever once a killed
job has left its `.save_tmp` behind. Importing this module mends that for the process.

    from slurmext.checkpoint.frameworks.submitit import Checkpointable
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from submitit import helpers
from submitit.core import utils

from slurmext.checkpoint.frameworks.files import replace_file


@contextlib.contextmanager
def temporary_save_path(filepath: str | Path) -> Iterator[Path]:
    """Yields a path to write to; the file there takes the place of `filepath` in one step, once it is on disk."""
    final = Path(filepath)
    draft = final.with_name(f"{final.name}.{os.getpid()}.save_tmp")
    draft.unlink(missing_ok=True)
    try:
        yield draft
        if not draft.exists():
            raise FileNotFoundError(f"nothing was saved at {draft}")
        replace_file(draft, final)
    finally:
        draft.unlink(missing_ok=True)


class Checkpointable(helpers.Checkpointable):
    """In place of `submitit.helpers.Checkpointable`."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        mend()  # in the job, which unpickles the callable before anything else
        self.__dict__.update(state)


def mend() -> None:
    """Make submitit save safely in this process."""
    utils.temporary_save_path = temporary_save_path


mend()
