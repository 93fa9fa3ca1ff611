"""The files below a path that is to be imported, opened without being led elsewhere.

Every component is opened relative to the directory before it and never through a symbolic link, so nobody who can
write there can make an importing root read another file. The one exception is the hub's cache layout, where
`snapshots/REV/FILE` is a link to `../../blobs/HASH`: exactly that is followed, and no other.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from slurmext.staging.errors import BadModel
from slurmext.staging.manifest import MOST_FILES
from slurmext.staging.names import OWN, check_file_name

_BLOB: Final = re.compile(r"(?:\.\./)+blobs/([0-9A-Za-z._-]{1,128})")
_SKIPPED: Final = {OWN, ".git", ".cache", ".gitattributes", ".no_exist"}
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTree:
    """A directory (or one file) to import, and where links of the hub's cache may lead."""

    root: Path
    names: tuple[str, ...]
    blobs: Path | None = None
    single: bool = False

    @contextmanager
    def open(self, name: str) -> Iterator[int]:
        """A descriptor of one of the files. Raises BadModel when it changed into something else."""
        descriptor = self._open(name)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BadModel(f"{self.root / name} is no ordinary file")
            yield descriptor
        finally:
            os.close(descriptor)

    def _open(self, name: str) -> int:
        check_file_name(name)
        if self.single:
            return _openat(self.root, None)
        *folders, last = name.split("/")
        at = _openat(self.root, None, os.O_DIRECTORY)
        try:
            for folder in folders:
                inner = _openat(Path(folder), at, os.O_DIRECTORY)
                os.close(at)
                at = inner
            if self.blobs is not None and stat.S_ISLNK(os.stat(last, dir_fd=at, follow_symlinks=False).st_mode):
                return _openat(self.blobs / _blob(os.readlink(last, dir_fd=at), self.root / name), None)
            return _openat(Path(last), at)
        finally:
            os.close(at)


def find_tree(path: Path, revision: str | None = None) -> tuple[SourceTree, str | None]:
    """The files to import, and the revision a hub cache names. Raises BadModel.

    `path` is a directory, a single file, or of the hub's cache a model (`models--org--name`) or one snapshot of it.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
    try:
        return _found(path, revision)
    except OSError as error:
        # What is looked for to tell a hub's cache is nothing that anybody has heard of.
        looked_for = {path / "snapshots", path / "blobs"}
        place = path if error.filename is None or Path(error.filename) in looked_for else error.filename
        raise BadModel(f"{place} cannot be read here: {error.strerror}; import what you may read") from error


def _found(path: Path, revision: str | None) -> tuple[SourceTree, str | None]:
    if path.is_symlink():
        raise BadModel(f"{path} is a symbolic link: import what it points to")
    if (path / "snapshots").is_dir() and (path / "blobs").is_dir():
        return _hub(path, revision)
    if path.parent.name == "snapshots" and (path.parent.parent / "blobs").is_dir():
        blobs = path.parent.parent / "blobs"
        return SourceTree(root=path, names=_names(path, blobs), blobs=blobs), path.name
    if path.is_file():
        return SourceTree(root=path, names=(check_file_name(path.name),), single=True), None
    if not path.is_dir():
        raise BadModel(f"{path} is neither a directory nor a file that can be read here")
    return SourceTree(root=path, names=_names(path, None)), None


def _hub(path: Path, revision: str | None) -> tuple[SourceTree, str]:
    revision = revision or "main"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", revision):
        raise BadModel(f"revision {revision!r}: letters, digits, '.', '_' and '-'")
    with suppress(OSError):
        revision = (path / "refs" / revision).read_text(encoding="ascii").strip()[:64]
    snapshots = sorted(entry.name for entry in (path / "snapshots").iterdir())
    if revision not in snapshots:
        raise BadModel(f"{path} has no revision {revision!r}; it has {', '.join(snapshots) or 'none'}")
    root, blobs = path / "snapshots" / revision, path / "blobs"
    return SourceTree(root=root, names=_names(root, blobs), blobs=blobs), revision


def _names(root: Path, blobs: Path | None) -> tuple[str, ...]:
    names: list[str] = []
    for folder, folders, files in os.walk(root, followlinks=False, onerror=_refuse):
        inside = PurePosixPath(Path(folder).relative_to(root).as_posix())
        for name in list(folders):
            if name in _SKIPPED:
                folders.remove(name)
            elif Path(folder, name).is_symlink():
                raise BadModel(f"{Path(folder, name)} is a link to a directory: import a directory without links")
        for name in files:
            if name in _SKIPPED:
                continue
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                if blobs is None:
                    raise BadModel(f"{path} is a symbolic link; copy the file it means (cp -L), then import")
                _blob(str(path.readlink()), path)
            elif not stat.S_ISREG(mode):
                raise BadModel(f"{path} is no ordinary file (a pipe, device or socket): remove it")
            names.append(check_file_name(str(inside / name)))
            if len(names) > MOST_FILES:
                raise BadModel(f"{root} has more than {MOST_FILES} files: not a model?")
    if not names:
        raise BadModel(f"{root} has no files")
    return tuple(sorted(names))


def _refuse(error: OSError) -> None:
    """A directory that cannot be read would be left out without a word."""
    raise error


def _blob(target: str, link: Path) -> str:
    match = _BLOB.fullmatch(target)
    if match is None or match[1] in {".", ".."}:
        raise BadModel(f"{link} points to {target!r}; only ../../blobs/HASH of the same cache is followed")
    return match[1]


def _openat(path: Path, at: int | None, flags: int = 0) -> int:
    try:
        return os.open(path, _FLAGS | flags, dir_fd=at)
    except OSError as error:
        raise BadModel(f"{path} cannot be opened as a plain file or directory: {error.strerror}") from error
