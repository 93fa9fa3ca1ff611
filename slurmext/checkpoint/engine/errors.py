"""What can go wrong with a checkpoint, for the person who runs the job."""

from __future__ import annotations

import errno
import os
from pathlib import Path


class CheckpointError(Exception):
    """A checkpoint could not be written or read: the message names the file, the cause and the remedy."""

    said = False
    """Whether the user was told already, on stderr."""


class BadCheckpointError(CheckpointError):
    """A checkpoint on disk is damaged; restore names it and takes the one before."""


class MismatchError(CheckpointError):
    """A checkpoint is sound but of another model: the message names the first array that differs."""


_REMEDIES = {
    errno.EDQUOT: "your disk quota is used up{room}; free some, or choose another file system with --ckpt-dir",
    errno.ENOSPC: "no space left{room}; free some, or choose another file system with --ckpt-dir",
    errno.EROFS: "the file system is read-only; choose another with --ckpt-dir",
    errno.EACCES: "no permission to write there{who}; choose a directory of your own with --ckpt-dir",
    errno.EPERM: "no permission to write there{who}; choose a directory of your own with --ckpt-dir",
    errno.ENOTDIR: "a part of the path is not a directory; choose another with --ckpt-dir",
    errno.EEXIST: "the path is taken by something that is not a directory; choose another with --ckpt-dir",
    errno.EIO: "the disk reports an I/O error; look at the node's kernel log, or choose another with --ckpt-dir",
    errno.ESTALE: "the network file system lost the directory (stale handle); is it still mounted on this node?",
}
GIB = 1 << 30


def write_error(place: Path, error: OSError, *, needed_bytes: int | None = None) -> CheckpointError:
    """An operating system's error on writing, with what to do about it. `needed_bytes`: of the checkpoint."""
    remedy = _REMEDIES.get(error.errno or 0, error.strerror or str(error))
    room = ""
    if needed_bytes is not None and (free := free_bytes(place)) is not None:
        room = f" (a checkpoint needs {bytes_text(needed_bytes)}, {bytes_text(free)} are free)"
    who = " (root may count as nobody on a network file system)" if os.geteuid() == 0 else ""
    return CheckpointError(f"cannot write a checkpoint to {place}: {remedy.format(room=room, who=who)}")


def free_bytes(place: Path) -> int | None:
    """What this user may still write there, None when the file system does not say."""
    for path in (place, *place.parents):
        try:
            figures = os.statvfs(path)
        except OSError:
            continue
        return (figures.f_bfree if os.geteuid() == 0 else figures.f_bavail) * figures.f_frsize
    return None


def bytes_text(count: int) -> str:
    """Like "3.2 GiB", "870 MiB" or "12 KiB"."""
    for unit, name in ((GIB, "GiB"), (1 << 20, "MiB")):
        if count >= unit:
            return f"{count / unit:.{1 if count < 10 * unit else 0}f} {name}"
    return f"{count / 1024:.0f} KiB"
