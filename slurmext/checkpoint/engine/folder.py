"""Checkpoints in a directory: one folder each, complete or not there at all.

    save-00000007-step-300/
        rank-00000-5f1c22ab.bin    a pack: arrays of one rank
        manifest.json              what is where, with checksums (see `manifest`)
        verified                   empty; there once everything was read back and found good

A folder is written under a name starting with a dot and renamed when everything in it is on disk. The serial number
grows with every save, so the newest is found without trusting clocks, and a name is never used twice.
"""

from __future__ import annotations

import contextlib
import operator
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from slurmext.checkpoint.engine import manifest as manifests
from slurmext.checkpoint.engine.errors import CheckpointError, write_error
from slurmext.checkpoint.engine.files import sync_directory

NAME = re.compile(r"save-(\d{8,})-step-(\d+)")
VERIFIED = "verified"


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint's folder. `step` is the caller's count of finished steps."""

    path: Path
    serial: int
    step: int

    def manifest(self) -> manifests.Manifest:
        """What is in it. Raises BadCheckpointError."""
        return manifests.read(self.path, step=self.step, serial=self.serial)

    @property
    def verified(self) -> bool:
        """Whether it was once read back and found good."""
        return os.path.exists(self.path / VERIFIED)  # noqa: PTH110 - False also where one may not look


def saved_in(directory: Path) -> list[Saved]:
    """What looks like a checkpoint, newest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"cannot read {directory}: {error.strerror}") from error
    found = [(match, name) for name in names if (match := NAME.fullmatch(name))]
    return sorted(
        (Saved(path=directory / name, serial=int(match[1]), step=int(match[2])) for match, name in found),
        key=lambda saved: -saved.serial,
    )


def counted(step: object) -> int:
    """A step as it stands in names, where anything else would not be found again. Raises CheckpointError."""
    try:
        number = operator.index(step)  # type: ignore[arg-type]  # also NumPy's and torch's whole numbers
    except TypeError:
        number = -1
    if number < 0:
        raise CheckpointError(f"step must be a whole number of finished steps, 0 or more, not {step!r}; save(300)")
    return number


def next_serial(directory: Path) -> int:
    """One more than any checkpoint there has."""
    return max((saved.serial for saved in saved_in(directory)), default=0) + 1


def publish(draft: Path, step: int, serial: int) -> Saved:
    """Rename a draft whose content is durable. Raises OSError."""
    final = draft.parent / f"save-{serial:08d}-step-{step}"
    sync_directory(draft)
    draft.rename(final)
    sync_directory(draft.parent)
    return Saved(path=final, serial=serial, step=step)


def mark_verified(saved: Saved) -> None:
    """Remember that it was read back. Never raises."""
    with contextlib.suppress(OSError):
        os.close(os.open(saved.path / VERIFIED, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def remove(saved: Saved) -> None:
    """Remove a checkpoint so that a half-removed one is never taken for a whole one. Never raises."""
    trash = saved.path.with_name(f".old-{saved.path.name}")
    with contextlib.suppress(OSError):
        saved.path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what a killed process left. Only the process that holds the directory's lock may do this."""
    for pattern in (".new-*", ".old-*"):
        for path in directory.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def make_directory(directory: Path) -> None:
    """Create the directory and make its name durable. Raises CheckpointError."""
    try:
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_directory(path.parent)
    except OSError as error:
        raise write_error(directory, error) from error
