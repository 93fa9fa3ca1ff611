"""Who asks about models: the user behind a uid, and the groups he is in as the user database has them now."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Collection

from slurmext.service.models.caller import Caller


def caller_of(uid: int, trusted: Collection[int] = (0,)) -> Caller:
    """The caller behind a uid. One without a name is in no group, and owns what he registers all the same."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Caller(uid=uid, user=f"uid {uid}", sees_all=uid in trusted)
    groups = dict[str, int]()
    for gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
        with contextlib.suppress(KeyError):
            groups[grp.getgrgid(gid).gr_name] = gid
    return Caller(uid=uid, user=entry.pw_name, groups=groups, sees_all=uid in trusted)


def gid_of(group: str) -> int | None:
    """A group's number; None when there is no such group."""
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


def group_name(gid: int) -> str:
    """A group's name; its number when it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
