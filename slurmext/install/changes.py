"""What an installation does to the file system, as data."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A directory to be there. `data` = slurmext's own data lies in it, so it goes with all its content."""

    path: Path
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    data: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to have this content. `was` is what is there now (None: nothing), `original` what was before slurmext.

    `edited` = someone else's file with our marked lines in it. `runtime` = others rewrite it, so only its existence and
    owner matter.
    """

    path: Path
    content: bytes
    was: bytes | None
    original: bytes | None = None
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    edited: bool = False
    runtime: bool = False

    @property
    def is_done(self) -> bool:
        """Whether the content is there already."""
        return self.was is not None and (self.runtime or self.was == self.content)

    def diff(self) -> str:
        """Unified diff of what is there and what is to be."""
        old = (self.was or b"").decode(errors="replace").splitlines(keepends=True)
        new = self.content.decode(errors="replace").splitlines(keepends=True)
        source = str(self.path) if self.was is not None else "/dev/null"
        lines = difflib.unified_diff(old, new, source, str(self.path))
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A symbolic link to be there."""

    path: Path
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallPlan:
    """Everything `slurmext install` will do. `next_steps` is for the admin, `notes` what was found on the way."""

    prefix: Path
    directories: tuple[Directory, ...] = ()
    files: tuple[File, ...] = ()
    links: tuple[Link, ...] = ()
    database: str | None = None
    sqlite: Path | None = None
    run_dir: Path | None = None
    notes: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = field(default_factory=tuple)
