"""Checkpoints in a directory, for `slurmext ckpt`: works on any directory, without daemon and without Slurm."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from slurmext.checkpoint.engine import folder, retention
from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.engine.errors import BadCheckpointError, CheckpointError
from slurmext.checkpoint.engine.folder import Saved
from slurmext.checkpoint.engine.lock import DirectoryLock
from slurmext.checkpoint.transparent import dumps
from slurmext.cli.session import user_name
from slurmext.errors import SlurmextError, UsageError

THREADS = 4
ASIDE = "aside"
_WHOSE = "; a checkpoint is its owner's: ask as that user, or as root where the file system lets root in"


class FilesError(SlurmextError):
    """What was asked of a directory of checkpoints cannot be done; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A checkpoint in a directory. `problem` is what is wrong with it, None when nothing is known to be."""

    path: Path
    kind: str
    serial: int
    step: int | None
    saved_s: float | None
    size_bytes: int | None
    ranks: int | None
    host: str
    job: str
    verified: bool
    problem: str | None

    def named(self, target: Path) -> str:
        """Its name, with that of the folder below `target` that it is in."""
        below = self.path != target and self.path.is_relative_to(target)
        return str(self.path.relative_to(target)) if below else self.path.name

    def row(self, target: Path) -> dict[str, object]:
        """For a table or JSON."""
        return {
            "name": self.named(target), "kind": self.kind, "step": self.step, "saved_s": self.saved_s,
            "size_bytes": self.size_bytes, "ranks": self.ranks, "host": self.host, "job": self.job,
            "verified": self.verified, "problem": self.problem, "path": str(self.path),
        }  # fmt: skip


def found_in(target: Path) -> list[Found]:
    """The checkpoints of a directory, newest first, or the one that `target` itself is.

    Raises UsageError for what is no directory, FilesError for one that cannot be read.
    """
    try:
        if not target.is_dir():
            raise UsageError(f"{target} is no directory; name one with checkpoints, or a checkpoint in one")
        return _found_in(target)
    except OSError as error:
        raise FilesError(f"cannot read {error.filename or target}: {error.strerror}{_WHOSE}") from error
    except CheckpointError as error:
        raise FilesError(f"{error}{_WHOSE}") from error


def _found_in(target: Path) -> list[Found]:
    if folder.NAME.fullmatch(target.name):
        return [_of_saved(saved) for saved in folder.saved_in(target.parent) if saved.path.name == target.name]
    if dumps.NAME.fullmatch(target.name):
        return [dump for dump in _dumps(target.parent) if dump.path.name == target.name]
    places = [target, *sorted(path for path in target.glob("task-*") if path.is_dir())]
    found = [_of_saved(saved) for place in places for saved in folder.saved_in(place)]
    for place in places:
        found += _dumps(place / dumps.FOLDER) + _dumps(place)
    return found


def verify(found: Found) -> str | None:
    """What is wrong with a checkpoint, None when all its bytes are as written."""
    if found.kind == "transparent":
        try:
            about = [dump for dump in dumps.newest_first(found.path.parent) if dump.path == found.path]
            if not about:
                return found.problem or "its manifest cannot be used"
            dumps.verify(about[0])
        except CheckpointError as error:
            return str(error)
        return None
    return retention.verify(Saved(path=found.path, serial=found.serial, step=found.step or 0), Crew(THREADS))


def folder_and_name(target: Path) -> tuple[Path, str | None]:
    """The folder that is meant, and the checkpoint's name where `target` is one."""
    return (target.parent, target.name) if folder.NAME.fullmatch(target.name) else (target, None)


def by_folder(found: list[Found]) -> dict[Path, list[Found]]:
    """A folder is what one job, or one task of an array, saves in; each is looked after by itself."""
    folders: dict[Path, list[Found]] = {}
    for one in found:
        folders.setdefault(one.path.parent, []).append(one)
    return folders


def to_prune(found: list[Found], keep: int) -> tuple[list[Found], list[Found]]:
    """(what stays, what goes): in each folder the newest `keep` that are good stay, each read to the end first."""
    stays: list[Found] = []
    goes: list[Found] = []
    for here in by_folder(found).values():
        good = list(islice((one for one in here if verify(one) is None), keep))
        stays += good
        goes += [one for one in here if one not in good] if len(good) == keep else []
    return stays, goes


def remove(gone: list[Found]) -> None:
    """Remove checkpoints; none while a job holds a folder that one is in. Raises FilesError."""
    locks: list[DirectoryLock] = []
    try:
        locks += (_locked(place) for place in by_folder(gone))
        for one in gone:
            if one.kind == "transparent":
                shutil.rmtree(one.path)
            else:
                folder.remove(Saved(path=one.path, serial=one.serial, step=one.step or 0))
    except OSError as error:
        raise FilesError(f"{error.filename}: {error.strerror}") from error
    finally:
        for lock in locks:
            lock.release()


def set_aside(directory: Path, newer: list[Found]) -> Path:
    """Put checkpoints where no run finds them, so that the next one begins from an older one. Raises FilesError."""
    lock = _locked(directory)
    place = directory / ASIDE
    try:
        place.mkdir(exist_ok=True)
        for one in newer:
            one.path.rename(place / one.path.name)
    except OSError as error:
        raise FilesError(f"{error.filename}: {error.strerror}") from error
    finally:
        lock.release()
    return place


def copy_to(one: Found, target: Path) -> Path:
    """Copy a checkpoint into another directory, where it is the newest. Raises FilesError."""
    try:
        target.mkdir(parents=True, exist_ok=True)
        lock = _locked(target)
        try:
            if folder.saved_in(target):
                raise FilesError(f"{target} has checkpoints already; copy into an empty directory")
            draft = target / f".new-copy-{os.getpid()}-{one.path.name}"
            try:
                shutil.copytree(one.path, draft, copy_function=_copied)
                return folder.publish(draft, one.step or 0, one.serial).path
            finally:
                shutil.rmtree(draft, ignore_errors=True)  # where it became no checkpoint
        finally:
            lock.release()
    except OSError as error:
        raise FilesError(f"{target}: {error.strerror}") from error


def require_own(directory: Path, uid: int) -> None:
    """Raises UsageError for another user's directory: root looks after it with that user's rights."""
    owner = directory.stat().st_uid
    if owner != uid:
        name = user_name(owner)
        whom = f"'#{owner}'" if name.startswith("uid ") else name
        raise UsageError(f"{directory} belongs to {name}; only its owner changes what is in it (sudo -u {whom})")


def _locked(directory: Path) -> DirectoryLock:
    try:
        return DirectoryLock(directory, wait_s=0)
    except CheckpointError as error:
        raise FilesError(str(error)) from error


def _copied(source: str, target: str) -> None:
    """Raises FilesError, since copytree goes on after an OSError and tells of all that came in one."""
    try:
        shutil.copyfile(source, target)
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FilesError(f"cannot copy {source} to {Path(target).parents[1]}: {error.strerror}") from error


def _of_saved(saved: Saved) -> Found:
    try:
        manifest, problem = saved.manifest(), None
    except BadCheckpointError as error:
        manifest, problem = None, str(error)
    info = manifest.info if manifest else {}
    at_s = info.get("saved_at_s")
    return Found(
        path=saved.path,
        kind="library",
        serial=saved.serial,
        step=saved.step,
        saved_s=float(at_s) if isinstance(at_s, int | float) else None,
        size_bytes=manifest.nbytes if manifest else None,
        ranks=len(manifest.parts) if manifest else None,
        host=str(info.get("host") or ""),
        job=str(info.get("job") or ""),
        verified=saved.verified,
        problem=problem,
    )


def _dumps(directory: Path) -> list[Found]:
    found = [
        Found(
            path=dump.path,
            kind="transparent",
            serial=dump.serial,
            step=None,
            saved_s=float(dump.about["made_s"]),
            size_bytes=dumps.size_bytes(dump),
            ranks=1,
            host=str(dump.about.get("node") or ""),
            job=str(dump.about.get("job") or ""),
            verified=False,
            problem=None,
        )
        for dump in dumps.newest_first(directory)
    ]
    for path, why in dumps.damaged(directory):
        found.append(
            Found(path=path, kind="transparent", serial=0, step=None, saved_s=None, size_bytes=None, ranks=None,
                  host="", job="", verified=False, problem=why)
        )  # fmt: skip
    return found
