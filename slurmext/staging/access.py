"""Who may read a staged model: everyone, a group, or one user. Files stay root's, so nobody can change a byte."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ACL: Final = "system.posix_acl_access"
_ACL_VERSION: Final = struct.pack("<I", 2)
_NO_ID: Final = 0xFFFFFFFF
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_READ, _ALL = 5, 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """`uid` alone reads it, or the group `gid` (both may), or with neither everyone."""

    uid: int | None = None
    gid: int | None = None

    @property
    def public(self) -> bool:
        """Whether everyone on the node may read it."""
        return self.uid is None and self.gid is None

    def lets_in(self, uid: int, gids: Collection[int] = ()) -> bool:
        """Whether this user, in these groups, may read it."""
        return self.public or uid in {0, self.uid} or (self.gid is not None and self.gid in gids)


def restrict(directory: Path, access: Access) -> None:
    """Let only these enter the directory, which is root's and stays so. Raises OSError.

    A user gets in by an access control list. Where the file system has none, the directory becomes the user's own;
    the files in it stay root's.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o700)
        os.fchown(descriptor, os.geteuid(), os.getegid() if access.gid is None else access.gid)
        with suppress(OSError):
            os.removexattr(descriptor, _ACL)
        if access.public:
            os.fchmod(descriptor, 0o755)
            return
        os.fchmod(descriptor, 0o700 if access.gid is None else 0o750)
        if access.uid is None or access.uid == os.fstat(descriptor).st_uid:
            return
        group = _READ if access.gid is not None else 0
        entries = ((_USER_OBJ, _ALL, _NO_ID), (_USER, _READ, access.uid), (_GROUP_OBJ, group, _NO_ID),
                   (_MASK, _READ, _NO_ID), (_OTHER, 0, _NO_ID))  # fmt: skip
        try:
            os.setxattr(descriptor, _ACL, _ACL_VERSION + b"".join(struct.pack("<HHI", *entry) for entry in entries))
        except OSError:
            os.fchown(descriptor, access.uid, -1)
            os.fchmod(descriptor, 0o500 | (0o050 if access.gid is not None else 0))
    finally:
        os.close(descriptor)
