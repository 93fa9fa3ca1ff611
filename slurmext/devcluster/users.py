"""Who uses a devcluster: root, and ordinary users, created on the host where they are absent and never deleted."""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import TYPE_CHECKING

from slurmext.devcluster.errors import BadSpec, DevclusterError
from slurmext.devcluster.packages import required_program
from slurmext.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable


def require_root(what: str) -> None:
    """Raises UsageError unless root does this, before any of it is done: `only root boots a devcluster …`."""
    if os.geteuid() != 0:
        raise UsageError(f"only root {what} (its daemons and jobs are root's and other users'): run it with sudo")


def known(name: str) -> pwd.struct_passwd:
    """An existing user. Raises BadSpec."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise BadSpec(
            f"no user {name!r} on this host: make one with `useradd --create-home {name}`, "
            f"or boot a cluster with `slurmext devcluster up --users {name}`"
        ) from None


def create(names: Iterable[str]) -> None:
    """Create these users where they do not exist. Raises DevclusterError."""
    for name in names:
        try:
            pwd.getpwnam(name)
        except KeyError:
            command = [required_program("useradd"), "--create-home", "--user-group", "--shell", "/bin/bash", name]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            # Two clusters booted at once may both try.
            if done.returncode != 0 and "already exists" not in done.stderr:
                raise DevclusterError(f"useradd {name}: {done.stderr.strip()}") from None
