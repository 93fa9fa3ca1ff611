"""Opening files with a user's rights instead of root's, for one thread and a moment.

Linux keeps the identity that file access is checked against (fsuid, fsgid, groups) for each thread. While it is a
user's, the kernel takes root's file capabilities from the thread too. What was opened stays readable afterwards; on
network file systems too it is read with the rights it was opened with.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import pwd
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from slurmext.staging.transport import LinkLost

# glibc's setgroups changes every thread of the process; the system call only this one.
_SETGROUPS: Final = {"x86_64": 116, "aarch64": 159, "riscv64": 159, "ppc64le": 81, "s390x": 206}
_ASK: Final = 0xFFFFFFFF
"""No identity: setting it changes nothing and returns the one in force."""
_libc = ctypes.CDLL(None, use_errno=True)
for _call in (_libc.setfsuid, _libc.setfsgid):
    _call.argtypes = (ctypes.c_uint,)


@contextmanager
def reading_as(uid: int | None) -> Iterator[None]:
    """Files are opened here as this user would open them; None: as the process. Raises LinkLost when that cannot be."""
    if uid is None or (uid == os.geteuid() and uid != 0):
        yield
        return
    if os.geteuid() != 0:
        raise LinkLost(f"only root's agent reads what belongs to uid {uid}: run slurmext-agent as root")
    if uid == 0:
        yield
        return
    gid, groups = _groups_of(uid)
    before = os.getgroups()
    try:
        _set_groups(groups)
        _become(_libc.setfsgid, gid, f"group {gid}")
        _become(_libc.setfsuid, uid, f"uid {uid}")
        yield
    finally:
        _become(_libc.setfsuid, 0, "root again")
        _become(_libc.setfsgid, os.getegid(), "root's group again")
        _set_groups(before)


def _groups_of(uid: int) -> tuple[int, Sequence[int]]:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise LinkLost(f"uid {uid} has no name on this node, so its groups are not known: give it one") from None
    return entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)


def _become(call: ctypes._FuncPointer, number: int, who: str) -> None:
    call(number)
    if call(_ASK) & _ASK != number:
        raise LinkLost(f"this thread cannot become {who} for reading")


def _set_groups(groups: Sequence[int]) -> None:
    number = _SETGROUPS.get(platform.machine())
    if number is None:
        raise LinkLost(
            f"storage is not read with users' rights on {platform.machine()}; supported: {', '.join(_SETGROUPS)}"
        )
    given = (ctypes.c_uint * max(1, len(groups)))(*groups)
    if _libc.syscall(number, len(groups), given) != 0:
        raise LinkLost(f"setgroups: {errno.errorcode.get(ctypes.get_errno(), '?')}")
