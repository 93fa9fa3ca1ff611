"""Where a SQLite file may live: a local filesystem, in a directory others cannot write."""

from __future__ import annotations

import ctypes
import os
import stat
from typing import TYPE_CHECKING

from slurmext.adapters.sql.errors import DatabaseRefused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# statfs(2) f_type, from linux/magic.h and the vendors' headers. Locks and shared memory of WAL do not work across
# hosts on any of them (https://www.sqlite.org/wal.html), and two daemons would then both believe to be alone.
NETWORK_FILESYSTEMS = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB",
    0xFF534D42: "CIFS",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x00C36400: "CephFS",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x19830326: "BeeGFS",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
    0x01021997: "9P",
    0x73757245: "Coda",
    0x20030528: "OrangeFS",
    0x65735546: "FUSE",  # sshfs, GlusterFS and the like; what lies behind cannot be told
}


def statfs_type(path: Path) -> int:
    """The f_type of the filesystem that holds an existing path."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(512)  # struct statfs is 120 bytes on 64-bit Linux; its first word is f_type
    if libc.statfs(os.fsencode(path), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF


def require_local(path: Path, filesystem_type: Callable[[Path], int] = statfs_type) -> None:
    """Raise DatabaseRefused when the file is, or would be, on a network filesystem."""
    there = path
    while not there.exists():
        there = there.parent
    name = NETWORK_FILESYSTEMS.get(filesystem_type(there))
    if name:
        raise DatabaseRefused(
            f"SQLite database {path} is on {name}: its locks do not hold across hosts. "
            "Use a local directory (sqlite:////var/lib/slurmext/state.db) or PostgreSQL or MariaDB "
            "(postgresql://user:password@host/slurmext)."
        )


def prepare(path: Path, filesystem_type: Callable[[Path], int] = statfs_type) -> None:
    """Create the file (0600) and its directory (0700) where they are missing; refuse unsafe places."""
    require_local(path, filesystem_type)
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if path.parent.stat().st_mode & stat.S_IWOTH:
            raise DatabaseRefused(
                f"SQLite database {path}: everyone may write its directory, so anyone could replace it. "
                f"Run `chmod o-w {path.parent}`, or use a directory of its own."
            )
        # O_NOFOLLOW: root must not be led elsewhere by a link
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise DatabaseRefused(
            f"SQLite database {path} cannot be created: {error.strerror}. "
            "Use a path this user may write, e.g. sqlite:////var/lib/slurmext/state.db."
        ) from error
