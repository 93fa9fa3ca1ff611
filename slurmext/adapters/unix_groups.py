"""Users and their groups, as the name service of this host tells them; groups are remembered for a while."""

from __future__ import annotations

import grp
import os
import pwd
import time
from collections.abc import Callable

REMEMBER_S = 300.0
"""A user who joined a group is seen in it after so long; a directory service may take a tenth of a second to answer."""


def uids_of(user: str) -> set[int]:
    """The user's id; none for a name nobody has."""
    try:
        return {pwd.getpwnam(user).pw_uid}
    except KeyError:
        return set()


def groups_of(user: str) -> tuple[str, ...]:
    """Asks the name service now."""
    try:
        entry = pwd.getpwnam(user)
        gids = os.getgrouplist(entry.pw_name, entry.pw_gid)
    except (KeyError, OSError):
        return ()
    names: list[str] = []
    for gid in (entry.pw_gid, *(gid for gid in gids if gid != entry.pw_gid)):
        try:
            names.append(grp.getgrgid(gid).gr_name)
        except (KeyError, OSError):
            continue
    return tuple(names)


def is_known(group: str) -> bool:
    """Whether the name service knows the group."""
    try:
        grp.getgrnam(group)
    except (KeyError, OSError):
        return False
    return True


class UnixGroups:
    """`groups_of(user)`: names of the user's groups, the primary one first; none for a user nobody knows."""

    def __init__(
        self, ask: Callable[[str], tuple[str, ...]] = groups_of, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._clock = ask, clock
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}

    def __call__(self, user: str) -> tuple[str, ...]:
        now = self._clock()
        known = self._known.get(user)
        if known is None or now - known[0] > REMEMBER_S:
            known = self._known[user] = now, self._ask(user)
        return known[1]
