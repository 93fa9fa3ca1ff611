"""Ordinary users for tests, created on the host where they are absent and never deleted."""

from __future__ import annotations

import pwd
import subprocess
from typing import TYPE_CHECKING

from slurmext.devcluster.errors import DevclusterError
from slurmext.devcluster.packages import required_program

if TYPE_CHECKING:
    from collections.abc import Iterable


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
