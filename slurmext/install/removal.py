"""Take an installation out again: every file is what it was before, and nothing of ours is left."""

from __future__ import annotations

import glob
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slurmext.install import conf_edit, manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

_RUN_FILES = (
    "heartbeat",
    "queues.tsv",
    "slices.tsv",
    "nodes.tsv",
    "wake",
    "submit-wake",
    "daemon.sock",
    "agent-*.sock",
    "agent-*.pid",
    "agent-*.failures",
    "agent-*.catalogue",
    *(f"agent-*.{folder}{files}" for folder in ("notes", "slices", "models", "mps") for files in ("/*", "")),
    "hooks.log*",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One thing to undo: `verb` is remove, restore or keep."""

    verb: str
    path: Path
    why: str = ""


def plan_removal(prefix: Path, *, keep_data: bool) -> list[Removal]:
    """What `remove` will do, in order; empty when nothing is installed."""
    if not (prefix / manifest.NAME).exists():
        return []
    return list(_steps(prefix, manifest.load(prefix), keep_data=keep_data))


def remove(prefix: Path, *, keep_data: bool) -> None:
    """Undo the installation whose manifest lies in `prefix`."""
    installed = manifest.load(prefix)
    for step in _steps(prefix, installed, keep_data=keep_data):
        if step.verb == "restore":
            _restore(step.path, installed)
        elif step.verb == "remove":
            _remove(step.path, whole=installed.directories.get(step.path, False))


def _steps(prefix: Path, installed: manifest.Manifest, *, keep_data: bool) -> Iterator[Removal]:
    for path in installed.replaced:
        yield Removal(verb="restore", path=path, why="as it was before slurmext")
    for path in installed.links:
        yield Removal(verb="remove", path=path)
    for path, edited in installed.made_files.items():
        if edited and path.exists() and conf_edit.strip(path.read_text(errors="surrogateescape")):
            yield Removal(verb="restore", path=path, why="others have added to it; only our lines go")
        else:
            yield Removal(verb="remove", path=path)
    yield from _data_steps(installed, keep_data=keep_data)
    yield Removal(verb="remove", path=prefix / manifest.NAME)
    for path, data in sorted(installed.directories.items(), reverse=True):
        if data and keep_data:
            yield Removal(verb="keep", path=path, why="slurmext's data")
        else:
            yield Removal(verb="remove", path=path, why="with everything in it" if data else "when empty")


def _data_steps(installed: manifest.Manifest, *, keep_data: bool) -> Iterator[Removal]:
    """What the daemons wrote outside the directories that go as a whole."""
    if installed.run_dir is not None and not keep_data:
        for path in sorted((path for pattern in _RUN_FILES for path in installed.run_dir.glob(pattern)), reverse=True):
            yield Removal(verb="remove", path=path, why="written by the daemons")
    if installed.sqlite is not None:
        for path in sorted(installed.sqlite.parent.glob(glob.escape(installed.sqlite.name) + "*")):
            yield Removal(verb="keep" if keep_data else "remove", path=path, why="state database")
    elif installed.database is not None:
        where = Path(installed.database.split("@")[-1])
        yield Removal(verb="keep", path=where, why="not made by `slurmext install`: remove it yourself")


def _restore(path: Path, installed: manifest.Manifest) -> None:
    was = installed.replaced.get(path)
    if path in installed.edited and path.exists():
        text = conf_edit.strip(path.read_text(errors="surrogateescape")).encode(errors="surrogateescape")
    elif was is not None:
        text = was.content
    else:
        return
    path = path.resolve()
    scratch = path.with_name(f".{path.name}.slurmext-new")
    scratch.write_bytes(text)
    if was is not None:
        os.chown(scratch, was.uid, was.gid)
        scratch.chmod(was.mode)
        if was.content == text:
            os.utime(scratch, ns=(was.mtime_ns, was.mtime_ns))
    else:
        shutil.copystat(path, scratch)
    scratch.replace(path)


def _remove(path: Path, *, whole: bool) -> None:
    if path.is_dir() and not path.is_symlink():
        if whole:
            shutil.rmtree(path)
        elif not any(path.iterdir()):
            path.rmdir()
    else:
        path.unlink(missing_ok=True)
