"""Dumps in a directory: a folder each, there whole and checked or not at all.

    dump-00000003/
        *.img, …         what CRIU wrote
        manifest.json    one line "slurmext-dump/1 <algorithm> <checksum of the rest>", then JSON

The number grows with every dump. A folder is made under a name that begins with a dot, and gets its own when all of
it is on disk.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurmext.checkpoint.engine.digest import best, digester
from slurmext.checkpoint.engine.errors import BadCheckpointError, write_error

FORMAT = "slurmext-dump/1"
FOLDER = "transparent"
MANIFEST = "manifest.json"
NAME = re.compile(r"dump-(\d{8,})")
KEEP = 2
_LOGS = ("dump.log", "restore.log", "stats-dump", "stats-restore")
"""Not checked: a restore writes there."""
_EXTRA = "after-dump-"


@dataclass(frozen=True, kw_only=True)
class Dump:
    """A dump's folder and what its manifest says."""

    path: Path
    serial: int
    about: Mapping[str, Any]


def home(environment: Mapping[str, str]) -> Path:
    """Where a job's dumps are: `transparent` in --ckpt-dir, else in slurmext-ckpt/<job id> where it was submitted."""
    job, task = environment.get("SLURM_JOB_ID") or "local", environment.get("SLURM_ARRAY_TASK_ID")
    if given := environment.get("SLURMEXT_CKPT_DIR"):
        base = Path(given)
        base = base / f"task-{task}" if task is not None and base.name != job else base
    else:
        base = Path(environment.get("SLURM_SUBMIT_DIR") or ".", "slurmext-ckpt", job)
    return base.absolute() / FOLDER


def draft(directory: Path) -> Path:
    """A new folder to dump into. Raises CheckpointError."""
    path = directory / f".new-{_next(directory):08d}-{os.getpid()}"
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise write_error(directory, error) from error
    return path


def finish(path: Path, about: Mapping[str, Any]) -> Dump:
    """Make a draft a dump: every byte on disk, with its checksum. Raises CheckpointError."""
    directory, serial, algorithm = path.parent, _next(path.parent), best()
    final = directory / f"dump-{serial:08d}"
    try:
        names = sorted(entry.name for entry in path.iterdir() if entry.name not in _LOGS)
        with ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
            files = list(pool.map(lambda name: _sealed(path / name), names))
        document = {**about, "serial": serial, "made_s": time.time(), "files": files}
        body = json.dumps(document).encode()
        with (path / MANIFEST).open("xb") as file:
            file.write(f"{FORMAT} {algorithm} {digester(algorithm)(body)}\n".encode() + body)
            file.flush()
            os.fsync(file.fileno())
        _sync(path)
        path.rename(final)
        _sync(directory)
    except OSError as error:
        raise write_error(directory, error) from error  # the images stay: they may be all there is of the program
    return Dump(path=final, serial=serial, about=document)


def newest_first(directory: Path) -> list[Dump]:
    """The dumps whose manifest can be read, newest first; the others are for `damaged`."""
    found = list[Dump]()
    for path, serial in _folders(directory):
        with contextlib.suppress(BadCheckpointError):
            found.append(Dump(path=path, serial=serial, about=_manifest(path)[0]))
    return found


def damaged(directory: Path) -> list[tuple[Path, str]]:
    """Folders of dumps whose manifest cannot be used, and why."""
    found = list[tuple[Path, str]]()
    for path, _ in _folders(directory):
        try:
            _manifest(path)
        except BadCheckpointError as error:
            found.append((path, str(error)))
    return found


def verify(dump: Dump) -> None:
    """Read every byte. Raises BadCheckpointError naming file and damage."""
    about, algorithm = _manifest(dump.path)
    for entry in about["files"]:
        path = dump.path / str(entry["name"])
        try:
            size, checksum = _read(path, algorithm)
        except OSError as error:
            raise BadCheckpointError(f"{path.name} cannot be read: {error.strerror}") from error
        if size != entry["size"] or checksum != entry["digest"]:
            raise BadCheckpointError(f"{path.name} does not match its checksum")


def prune(directory: Path, keep: int = KEEP) -> None:
    """Remove drafts that were left and all but the newest dumps. What was cut off logs stays where it is."""
    for path in directory.glob(".new-*"):
        shutil.rmtree(path, ignore_errors=True)
    for path, _ in _folders(directory)[keep:]:
        trash = path.with_name(f".new-gone-{path.name}")
        with contextlib.suppress(OSError):
            for tail in path.glob(f"{_EXTRA}*"):
                tail.rename(directory / f"{path.name}-{tail.name}")
            path.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)


def size_bytes(dump: Dump) -> int:
    """How large it is."""
    return sum(int(entry["size"]) for entry in dump.about["files"])


def _folders(directory: Path) -> list[tuple[Path, int]]:
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    found = [(directory / name, int(match[1])) for name in names if (match := NAME.fullmatch(name))]
    return sorted(found, key=lambda item: -item[1])


def _next(directory: Path) -> int:
    return max((serial for _, serial in _folders(directory)), default=0) + 1


def _manifest(path: Path) -> tuple[dict[str, Any], str]:
    try:
        head, _, body = (path / MANIFEST).read_bytes().partition(b"\n")
    except OSError as error:
        raise BadCheckpointError(f"{path}: {MANIFEST} cannot be read: {error.strerror}") from error
    words = head.decode("ascii", "replace").split(" ")
    if len(words) != 3 or words[0] != FORMAT:  # noqa: PLR2004
        raise BadCheckpointError(f"{path}: {MANIFEST} does not begin with {FORMAT!r}")
    if digester(words[1])(body) != words[2]:
        raise BadCheckpointError(f"{path}: {MANIFEST} does not match its checksum")
    return json.loads(body), words[1]


def _sealed(path: Path) -> dict[str, Any]:
    size, checksum = _read(path, best())
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return {"name": path.name, "size": size, "digest": checksum}


def _read(path: Path, algorithm: str) -> tuple[int, str]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return 0, digester(algorithm)(b"")
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
            return size, digester(algorithm)(content)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
