"""The copies: files in a memory file system, a folder for each job and checkpoint, readable through the agent only.

    <root>/<uid>-<job id>/save-00000003-step-12/rank-00000-5f1c22ab.bin

`root` is the agent's alone (mode 0700). A file is 0444: who is handed an open descriptor of it may open it again for
reading (proc(5), /proc/PID/fd), but never for writing.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slurmext.errors import SlurmextError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = re.compile(r"save-(\d{8,20})-step-\d{1,20}")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MANIFEST = "manifest.json"
KEEP = 2
_FOLDER = re.compile(r"(\d+)-(\d+)")
_PARTIAL = ".part"
_ONLY = ".only"
"""In a checkpoint's folder: it is in memory only, no directory has it."""


class NoRoomError(SlurmextError):
    """A copy does not fit into what this user, or this node, may keep in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A file of a copy. `size` in bytes; `only`: its checkpoint is in memory and nowhere else."""

    name: str
    file: str
    path: Path
    size: int
    only: bool = False


class CopyStore:
    """Of one node. `user_bytes` and `all_bytes` bound what one user's jobs, and all, may have here."""

    def __init__(self, root: Path, *, user_bytes: int, all_bytes: int, keep_s: float) -> None:
        self._root, self._user_bytes, self._all_bytes, self._keep_s = root, user_bytes, all_bytes, keep_s
        self._lock = threading.Lock()
        self._promised: dict[tuple[int, Path], int] = {}
        self.on_gone: Callable[[int, str], None] = lambda _job_id, _name: None
        """Called with job id and checkpoint when one was removed to make room for others."""
        self.alive: Callable[[], set[int]] = set
        """The jobs that run here."""
        if root.exists():
            self._require_own()
            for path in root.rglob(f"*{_PARTIAL}"):
                path.unlink(missing_ok=True)

    def _require_own(self) -> None:
        """Make the root, or refuse one that others could look or write into."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = self._root.lstat()
        if info.st_uid not in {0, os.geteuid()} or info.st_mode & 0o077 or not stat.S_ISDIR(info.st_mode):
            raise SlurmextError(f"{self._root} must be a directory of root that nobody else can enter: chmod 700 it")

    def place(self, job_id: int, uid: int, name: str, file: str, size: int, *, only: bool = False) -> Path:
        """Where to write a file; older copies make room. Raises NoRoomError, SlurmextError for a bad name.

        Nothing is there under its final name before `commit`. `only`: the checkpoint will be here and nowhere else;
        then the job's last whole one stays until this one is whole.
        """
        if not NAME.fullmatch(name) or not FILE.fullmatch(file):
            raise SlurmextError(f"{name[:60]!r}/{file[:60]!r} is no file of a checkpoint")
        folder = self._root / f"{uid}-{job_id}" / name
        path = folder / f"{file}{_PARTIAL}"
        with self._lock:
            self._require_own()
            self._make_room(uid, job_id, size)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if only:
                (folder / _ONLY).touch()
            self._promised[uid, path] = size
        return path

    def commit(self, uid: int, path: Path) -> None:
        """The file is whole: it gets its name, and older checkpoints of the job than the newest two go."""
        final = path.with_name(path.name.removesuffix(_PARTIAL))
        with self._lock:
            self._promised.pop((uid, path), None)
            path.chmod(0o444)
            path.replace(final)
            self._prune(final.parent.parent)

    def abandon(self, uid: int, path: Path) -> None:
        """The file will not become whole."""
        with self._lock:
            self._promised.pop((uid, path), None)
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                if [item.name for item in path.parent.iterdir()] == [_ONLY]:
                    (path.parent / _ONLY).unlink()
                path.parent.rmdir()

    def files(self, job_id: int, uid: int) -> list[Kept]:
        """What is kept of a job of this user, the newest checkpoint first."""
        with self._lock:
            found = list(self._files(self._root / f"{uid}-{job_id}"))
        return sorted(found, key=lambda kept: (-int(NAME.fullmatch(kept.name)[1]), kept.file))  # type: ignore[index]

    def owners(self, job_id: int) -> list[int]:
        """Users of whom a job of this id has something here."""
        with self._lock:
            return [int(path.name.partition("-")[0]) for path in self._root.glob(f"*-{job_id}")]

    def forget(self, job_id: int, uid: int | None = None) -> list[str]:
        """Remove all of a job; returns the names of the checkpoints."""
        gone: list[str] = []
        with self._lock:
            for path in self._root.glob(f"{'*' if uid is None else uid}-{job_id}"):
                gone += [folder.name for folder in path.iterdir()]
                shutil.rmtree(path, ignore_errors=True)
        return gone

    def expire(self, alive: set[int], now_s: float) -> list[tuple[int, str]]:
        """Remove what belongs to no job that runs here and is older than it is to be kept; (job, checkpoint) each."""
        gone: list[tuple[int, str]] = []
        with self._lock:
            for path in self._root.iterdir() if self._root.exists() else ():
                found = _FOLDER.fullmatch(path.name)
                job_id = int(found[2]) if found else 0
                newest_s = max((item.stat().st_mtime for item in path.iterdir()), default=0.0)
                if job_id not in alive and now_s - newest_s > self._keep_s:
                    gone += [(job_id, item.name) for item in path.iterdir()]
                    shutil.rmtree(path, ignore_errors=True)
        return gone

    def there_bytes(self, job_id: int, uid: int) -> int:
        """How much has come of a job's copies so far, what is not whole yet included."""
        there = 0
        for folder, _, names in os.walk(self._root / f"{uid}-{job_id}"):  # what goes meanwhile is passed over
            for name in names:
                with contextlib.suppress(OSError):
                    there += Path(folder, name).stat().st_size
        return there

    def used_bytes(self, uid: int | None = None) -> int:
        """What is kept, or promised room, of one user or of all."""
        with self._lock:
            return self._used(uid)

    def _used(self, uid: int | None) -> int:
        folders = self._root.glob("*" if uid is None else f"{uid}-*")
        there = sum(kept.size for folder in folders for kept in self._files(folder))
        return there + sum(size for (whose, _), size in self._promised.items() if uid in {None, whose})

    def _make_room(self, uid: int, job_id: int, size: int) -> None:
        mine = self._root / f"{uid}-{job_id}"
        needed = self._needed(uid, job_id)
        while self._used(uid) + size > self._user_bytes or self._used(None) + size > self._all_bytes:
            others = sorted(
                (folder for owner in self._root.glob(f"{uid}-*") for folder in owner.iterdir() if owner != mine),
                key=lambda folder: folder.stat().st_mtime,
            )
            older = sorted(mine.iterdir(), key=lambda folder: folder.name)[:-1] if mine.exists() else []
            victims = [folder for folder in (*others, *older) if folder not in needed]
            if not victims:
                raise NoRoomError(
                    f"{size >> 20} MiB do not fit into the memory kept for copies: {self._used(uid) >> 20} of "
                    f"{self._user_bytes >> 20} MiB are this user's, {self._used(None) >> 20} of "
                    f"{self._all_bytes >> 20} MiB are in use (agent.copies of the site file)"
                )
            self._drop(victims[0])

    def _needed(self, uid: int, job_id: int) -> set[Path]:
        """What a job would lose work without: its newest whole checkpoint, if that is in memory only."""
        ids = {job_id, *self.alive()}
        newest = [whole[-1] for one in ids if (whole := self._whole(self._root / f"{uid}-{one}"))]
        return {folder for folder in newest if (folder / _ONLY).exists()}

    @staticmethod
    def _whole(job: Path) -> list[Path]:
        """The folders of a job with whole checkpoints, the newest last."""
        try:
            return sorted((one for one in job.iterdir() if (one / MANIFEST).exists()), key=lambda one: one.name)
        except FileNotFoundError:
            return []

    def _prune(self, job: Path) -> None:
        whole = self._whole(job)
        if len(whole) > KEEP:
            oldest = whole[-KEEP].name
            for folder in job.iterdir():
                if folder.name < oldest:
                    self._drop(folder)

    def _drop(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.parent.rmdir()
        self.on_gone(int(folder.parent.name.partition("-")[2]), folder.name)

    @staticmethod
    def _files(job: Path) -> Iterator[Kept]:
        try:
            folders = [folder for folder in job.iterdir() if NAME.fullmatch(folder.name)]
        except FileNotFoundError:
            return
        for folder in folders:
            names = set(os.listdir(folder))
            for name in names - {_ONLY}:
                if not name.endswith(_PARTIAL):
                    path = folder / name
                    with contextlib.suppress(OSError):
                        size = path.stat().st_size
                        yield Kept(name=folder.name, file=name, path=path, size=size, only=_ONLY in names)


def memory_bytes() -> int:
    """The node's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
