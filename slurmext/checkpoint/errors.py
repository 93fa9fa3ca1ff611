"""What can go wrong with a checkpoint, for the person who runs the job."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class CheckpointError(Exception):
    """A checkpoint could not be written or read: the message names the file, the cause and the remedy."""


class BadCheckpointError(CheckpointError):
    """A checkpoint on disk is damaged; restore names it and takes the one before."""


_REMEDIES = {
    errno.ENOSPC: "no space left; free some, or choose another file system with --ckpt-dir",
    errno.EDQUOT: "your disk quota is used up; free some, or choose another file system with --ckpt-dir",
    errno.EROFS: "the file system is read-only; choose another with --ckpt-dir",
    errno.EACCES: "no permission to write there; choose a directory of your own with --ckpt-dir",
    errno.EPERM: "no permission to write there; choose a directory of your own with --ckpt-dir",
    errno.ENOTDIR: "a part of the path is not a directory; choose another with --ckpt-dir",
    errno.EEXIST: "the path is taken by something that is not a directory; choose another with --ckpt-dir",
}


def write_error(place: Path, error: OSError) -> CheckpointError:
    """An operating system's error on writing, with what to do about it."""
    remedy = _REMEDIES.get(error.errno or 0, error.strerror or str(error))
    return CheckpointError(f"cannot write a checkpoint to {place}: {remedy}")
