"""Prolog, Epilog and TaskProlog: our wrappers, next to what the site has."""

from __future__ import annotations

import fnmatch
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from slurmext.errors import SlurmextError

SOURCES = {
    "Prolog": Path("prolog/slurmext-prolog"),
    "Epilog": Path("epilog/slurmext-epilog"),
    "TaskProlog": Path("prolog/slurmext-task-prolog"),
}


def interpreter() -> Path:
    """The Python the hooks run with: the system's where it is new enough, for a job's user can always reach that.

    A virtual environment or a home may be closed to them, and hooks need nothing but the standard library.
    """
    system = Path("/usr/bin/python3")
    if system.exists():
        command = [str(system), "-I", "-S", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return system
    return Path(sys.executable).resolve()


@dataclass(frozen=True, slots=True, kw_only=True)
class HookPlace:
    """Where a hook goes: slurm.conf's new value (None = leave it), the wrapper, links and a chaining script."""

    value: str | None
    wrapper: Path
    links: tuple[tuple[Path, str], ...] = ()
    chain: tuple[Path, str] | None = None


def wrapper_text(source: Path, values: dict[str, str]) -> str:
    """A wrapper with its @NAME@ places filled in, quoted for the shell."""
    text = source.read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", shlex.quote(value))
    return text


def place(key: str, existing: list[str], prefix: Path) -> HookPlace:
    """How our `key` hook comes beside the site's own programs.

    Slurm runs the matches of a pattern in reverse alphabetical order, so a site's own prologs (90-) run before ours
    (50-) and a site's own epilogs (10-) after ours.
    """
    wrapper = prefix / "hooks" / SOURCES[key].name
    if not existing:
        return HookPlace(value=str(wrapper), wrapper=wrapper)
    if key == "TaskProlog":
        chain = prefix / "hooks" / "task-prolog"
        lines = [
            "#!/bin/sh",
            "# The site's own TaskProlog, then slurmext's.",
            f"{shlex.quote(existing[-1])} || exit $?",
            f"exec {shlex.quote(str(wrapper))}",
            "",
        ]
        return HookPlace(value=str(chain), wrapper=wrapper, chain=(chain, "\n".join(lines)))
    patterns = [value for value in existing if any(char in value for char in "*?[")]
    if patterns:
        pattern = Path(patterns[-1])
        for name in ("50-slurmext", "50-slurmext.sh"):
            if fnmatch.fnmatch(name, pattern.name):
                return HookPlace(value=None, wrapper=wrapper, links=((pattern.parent / name, str(wrapper)),))
        raise SlurmextError(f"{key}={pattern}: ours cannot be named to match it; change it to {pattern.parent}/*")
    folder = prefix / f"{key.lower()}.d"
    rank = "90" if key == "Prolog" else "10"
    links = [(folder / "50-slurmext", str(wrapper))]
    links += [(folder / f"{rank}-site-{index}", value) for index, value in enumerate(existing)]
    return HookPlace(value=f"{folder}/*", wrapper=wrapper, links=tuple(links))
