"""A share's folder: root's, closed to everybody but its job's user, under a name that nobody can guess.

Access is a POSIX ACL, since a folder that the user owned would let him swap what root's daemon opens there. Where the
file system has none, the name is what keeps others out: the folder above cannot be listed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

KEY = re.compile(r"[0-9a-f]{32}")
_ACL = "system.posix_acl_access"
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_RWX, _RX = 7, 5


def new_key() -> str:
    """A name for a share's folder."""
    return secrets.token_hex(16)


def make(base: Path, key: str, uid: int) -> Path:
    """The share's folder with `pipe` and `log` in it. Nobody but root can enter before `open_to`."""
    base.mkdir(mode=0o711, exist_ok=True)
    base.chmod(0o711)
    folder = base / key
    folder.mkdir(mode=0o700)
    for name in ("pipe", "log"):
        (folder / name).mkdir()
        (folder / name).chmod(0o755)
    # The server runs as the user and writes this file; the folder stays root's, so it is never a link to another.
    descriptor = os.open(folder / "log" / "server.log", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, uid, -1)
    finally:
        os.close(descriptor)
    return folder


def open_to(folder: Path, uid: int) -> None:
    """Let this user pass. Raises OSError."""
    entries = [(_USER_OBJ, _RWX, _NOBODY), (_USER, _RX, uid), (_GROUP_OBJ, 0, _NOBODY), (_MASK, _RX, _NOBODY),
               (_OTHER, 0, _NOBODY)]  # fmt: skip
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(folder, _ACL, acl)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
        folder.chmod(0o711)


def remove(base: Path, key: str) -> None:
    """Remove the share's folder."""
    if KEY.fullmatch(key):
        shutil.rmtree(base / key, ignore_errors=True)


def left(base: Path) -> list[str]:
    """Keys of the folders that are there."""
    try:
        return sorted(name for name in os.listdir(base) if KEY.fullmatch(name))
    except OSError:
        return []
