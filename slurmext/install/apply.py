"""Carry out an InstallPlan. A crash half-way is mended by running it again: the manifest is written first."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from slurmext.install import manifest

if TYPE_CHECKING:
    from pathlib import Path

    from slurmext.install.changes import File, InstallPlan


def apply(plan: InstallPlan) -> None:
    """Make directories, files and links, and migrate the database."""
    before = manifest.load(plan.prefix)
    for directory in plan.directories:
        if not directory.path.exists():
            directory.path.mkdir()
            directory.path.chmod(directory.mode)
            os.chown(directory.path, directory.uid, directory.gid)
    _write(plan.prefix / manifest.NAME, manifest.dump(_manifest(plan, before)), 0o600, 0, 0)
    for file in plan.files:
        if not file.is_done:
            _write(file.path, file.content, file.mode, file.uid, file.gid)
    for link in plan.links:
        if not link.path.is_symlink() or str(link.path.readlink()) != link.target:
            link.path.unlink(missing_ok=True)
            link.path.symlink_to(link.target)
    if plan.database is not None:
        from slurmext.adapters.sql import migrate  # noqa: PLC0415  SQLAlchemy only when it is needed

        migrate(plan.database)


def _manifest(plan: InstallPlan, before: manifest.Manifest) -> manifest.Manifest:
    replaced = dict(before.replaced)
    made = dict(before.made_files)
    for file in plan.files:
        if file.original is None:
            made[file.path] = file.edited
        else:
            replaced[file.path] = _former(file, before)
    edited = {file.path for file in plan.files if file.edited}
    return manifest.Manifest(
        directories={**before.directories, **{entry.path: entry.data for entry in plan.directories}},
        made_files=made,
        replaced=replaced,
        edited=before.edited | edited,
        links=tuple(dict.fromkeys([*before.links, *(link.path for link in plan.links)])),
        database=plan.database or before.database,
        run_dir=plan.run_dir or before.run_dir,
        sqlite=before.sqlite or (plan.sqlite if plan.sqlite is not None and not plan.sqlite.exists() else None),
    )


def _former(file: File, before: manifest.Manifest) -> manifest.Replaced:
    if file.path in before.replaced and not file.edited:
        return before.replaced[file.path]
    info = file.path.stat()
    known = before.replaced.get(file.path)
    unchanged = known is not None and known.content == file.original
    mtime_ns = known.mtime_ns if known is not None and unchanged else info.st_mtime_ns
    return manifest.Replaced(
        content=file.original or b"", mode=info.st_mode & 0o7777, uid=info.st_uid, gid=info.st_gid, mtime_ns=mtime_ns
    )


def _write(path: Path, content: bytes, mode: int, uid: int, gid: int) -> None:
    """Replace a file in one step, so that Slurm never reads half of it."""
    path = path.resolve()
    scratch = path.with_name(f".{path.name}.slurmext-new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(descriptor)
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
    scratch.replace(path)
