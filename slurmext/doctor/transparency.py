"""Reads what --ckpt=transparent needs of this node."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from slurmext.doctor.facts import TransparentFact

_PLACES = ("/usr/sbin/criu", "/usr/local/sbin/criu", "/usr/local/bin/criu", "/usr/bin/criu")
# Each is absent where the kernel does not have that restriction.
_SWITCHES: dict[str, Callable[[int], bool]] = {
    "/proc/sys/user/max_user_namespaces": lambda value: value > 0,
    "/proc/sys/kernel/unprivileged_userns_clone": lambda value: value == 1,
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": lambda value: value == 0,
}


def transparent_fact(criu: Path | None) -> TransparentFact:
    """What is there; `criu` is the site's own."""
    found = criu or next((Path(path) for path in _PLACES if Path(path).exists()), None) or _in_path()
    if found is not None and not found.exists():
        found = None
    return TransparentFact(
        criu=found,
        version=None if found is None else _version(found),
        namespaces=all(_allows(path, good) for path, good in _SWITCHES.items()),
    )


def _in_path() -> Path | None:
    found = shutil.which("criu")
    return Path(found) if found else None


def _version(criu: Path) -> tuple[int, int] | None:
    try:
        said = subprocess.run([str(criu), "--version"], check=False, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"Version: (\d+)\.(\d+)", said)
    return None if version is None else (int(version[1]), int(version[2]))


def _allows(path: str, good: Callable[[int], bool]) -> bool:
    try:
        value = int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return True
    return good(value)
