"""Checkpoints in a directory: one folder each, complete or not there at all.

    save-00000007-step-300/
        rank-00000.bin    the arrays of one process, each at a multiple of 4096 bytes
        manifest.json     one line "slurmext-checkpoint/1 <algorithm> <checksum of the rest>", then JSON

A folder is written under a name starting with a dot and renamed when everything in it is on disk. The serial number
grows with every save, so the newest is found without trusting clocks, and a name is never used twice.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurmext.checkpoint import tree
from slurmext.checkpoint.digest import BEST, digest, hasher
from slurmext.checkpoint.errors import BadCheckpointError, CheckpointError, write_error

FORMAT = "slurmext-checkpoint/1"
ALIGN = 4096
CHUNK = 16 << 20
MANIFEST = "manifest.json"
NAME = re.compile(r"save-(\d{8,})-step-(\d+)")


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint's folder. `step` is the caller's count of finished steps."""

    path: Path
    serial: int
    step: int


def saved_in(directory: Path) -> list[Saved]:
    """What looks like a checkpoint, newest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"cannot read {directory}: {error.strerror}") from error
    found = [(match, name) for name in names if (match := NAME.fullmatch(name))]
    return sorted(
        (Saved(path=directory / name, serial=int(match[1]), step=int(match[2])) for match, name in found),
        key=lambda saved: -saved.serial,
    )


def write(directory: Path, step: int, state: Mapping[str, Any]) -> tuple[Saved, int]:
    """Write a checkpoint; it is on disk when this returns. Returns it and its size in bytes. Raises CheckpointError."""
    document, arrays = tree.pack(state)
    serial = max((saved.serial for saved in saved_in(directory)), default=0) + 1
    final = directory / f"save-{serial:08d}-step-{step}"
    draft = directory / f".new-{serial:08d}-{os.getpid()}"
    try:
        draft.mkdir()
        shard, places = _write_arrays(draft / "rank-00000.bin", arrays)
        body = json.dumps({
            "step": step, "serial": serial, "saved_at_s": time.time(), "world": 1,
            "job": os.environ.get("SLURM_JOB_ID"),
            "files": [shard], "arrays": places, "state": document,
        }).encode()  # fmt: skip
        head = f"{FORMAT} {BEST} {digest(body)}\n".encode()
        with (draft / MANIFEST).open("xb") as file:
            file.write(head + body)
            _flush(file)
        sync_directory(draft)
        draft.rename(final)
        sync_directory(directory)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError):
            raise write_error(directory, error) from error
        raise
    return Saved(path=final, serial=serial, step=step), shard["size"] + len(head) + len(body)


def read(saved: Saved) -> dict[str, Any]:
    """The state of a checkpoint, every byte checked. Raises BadCheckpointError naming file and damage."""
    try:
        return _read(saved)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadCheckpointError(f"{MANIFEST} cannot be understood ({error!r})") from error


def _read(saved: Saved) -> dict[str, Any]:
    manifest, algorithm = _read_manifest(saved)
    (entry,) = manifest["files"]
    content = _read_checked(saved.path, entry, algorithm)

    def array(index: int) -> Any:
        import numpy as np

        place = manifest["arrays"][index]
        return np.ndarray((place["size"],), np.uint8, content, place["offset"])

    value = tree.unpack(manifest["state"], array)
    if not isinstance(value, dict):
        raise BadCheckpointError("its manifest holds no state")
    return value


def verify(saved: Saved) -> None:
    """Read a checkpoint and compare every byte's checksum. Raises BadCheckpointError."""
    manifest, algorithm = _read_manifest(saved)
    for entry in manifest["files"]:
        for _ in _chunks(saved.path / entry["name"], entry, algorithm):
            pass


def remove(saved: Saved) -> None:
    """Remove a checkpoint so that a half-removed one is never taken for a whole one. Never raises."""
    trash = saved.path.with_name(f".old-{saved.path.name}")
    with contextlib.suppress(OSError):
        saved.path.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Remove what a killed process left. Only the process that holds the directory's lock may do this."""
    for pattern in (".new-*", ".old-*"):
        for path in directory.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def make_directory(directory: Path) -> None:
    """Create the directory and make its name durable. Raises CheckpointError."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_directory(path.parent)
    except OSError as error:
        raise write_error(directory, error) from error


def sync_directory(path: Path) -> None:
    """Make a rename or a new name in the directory durable (fsync(2): the file's own fsync does not)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_arrays(path: Path, arrays: list[Any]) -> tuple[dict[str, Any], list[dict[str, int]]]:
    checksum = hasher()
    places: list[dict[str, int]] = []
    size = 0
    with path.open("xb", buffering=0) as file:
        for array in arrays:
            content = memoryview(array.reshape(-1).view("u1")) if array.size else memoryview(b"")
            places.append({"offset": size, "size": len(content)})
            for piece in (content, memoryview(bytes(-len(content) % ALIGN))):
                for start in range(0, len(piece), CHUNK):
                    chunk = piece[start : start + CHUNK]
                    checksum.update(chunk)
                    while chunk:
                        chunk = chunk[file.write(chunk) :]
                size += len(piece)
        _flush(file)
    return {"name": path.name, "size": size, "digest": checksum.hexdigest()}, places


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read_manifest(saved: Saved) -> tuple[dict[str, Any], str]:
    try:
        with _open(saved.path / MANIFEST) as file:
            head, _, body = file.readall().partition(b"\n")
        words = head.decode("ascii", "replace").split(" ")
    except OSError as error:
        raise BadCheckpointError(f"{MANIFEST} cannot be read: {error.strerror}") from error
    if len(words) != 3 or words[0] != FORMAT or words[1] not in {"sha256", "xxh3-128"}:  # noqa: PLR2004
        raise BadCheckpointError(f"{MANIFEST} does not begin with {FORMAT!r}")
    if digest(body, words[1]) != words[2]:
        raise BadCheckpointError(f"{MANIFEST} does not match its checksum")
    manifest = json.loads(body)
    if manifest["step"] != saved.step or manifest["serial"] != saved.serial:
        raise BadCheckpointError(f"{MANIFEST} belongs to step {manifest['step']}")
    return manifest, words[1]


def _read_checked(folder: Path, entry: Mapping[str, Any], algorithm: str) -> bytearray:
    content = bytearray(entry["size"])
    position = 0
    for chunk in _chunks(folder / entry["name"], entry, algorithm):
        content[position : position + len(chunk)] = chunk
        position += len(chunk)
    return content


def _open(path: Path) -> io.FileIO:
    # Without O_NONBLOCK a pipe in a file's place would stop the job for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return io.FileIO(descriptor)
    os.close(descriptor)
    raise BadCheckpointError(f"{path.name} is not a regular file")


def _chunks(path: Path, entry: Mapping[str, Any], algorithm: str) -> Iterator[memoryview]:
    checksum = hasher(algorithm)
    buffer = memoryview(bytearray(min(CHUNK, entry["size"]) or 1))
    left = entry["size"]
    try:
        with _open(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != left:
                raise BadCheckpointError(f"{path.name} has {size} bytes instead of {left}")
            while left and (count := file.readinto(buffer[:left])):
                checksum.update(buffer[:count])
                left -= count
                yield buffer[:count]
    except OSError as error:
        raise BadCheckpointError(f"{path.name} cannot be read: {error.strerror}") from error
    if left or checksum.hexdigest() != entry["digest"]:
        raise BadCheckpointError(f"{path.name} does not match its checksum")
