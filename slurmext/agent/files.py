"""Small files that survive `kill -9`: written next to their place and renamed, or appended in one write."""

from __future__ import annotations

import fcntl
import os
import stat
from typing import TYPE_CHECKING

from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from pathlib import Path


def append_line(path: Path, line: str) -> None:
    """Append a line in a single write, so that a kill leaves it whole or absent."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file so that a reader or a restart sees the old content or the new, never a part."""
    draft = path.with_name(f".{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def own_directory(path: Path, mode: int) -> Path:
    """Create a directory, or refuse one that another user could write to."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        info = path.lstat()
    except OSError as error:
        raise SlurmextError(f"{path} cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(info.st_mode) or info.st_uid not in {0, os.geteuid()} or info.st_mode & 0o022:
        raise SlurmextError(
            f"{path} must be a directory that only its owner can write: chown root {path}; chmod go-w {path}"
        )
    return path


def only_one(path: Path) -> int:
    """Take an exclusive lock for as long as this process lives; returns the descriptor that holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 100).decode(errors="replace").strip()
        os.close(descriptor)
        raise SlurmextError(
            f"another agent for this node is running (pid {holder or '?'}, lock {path}): stop it first"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor
