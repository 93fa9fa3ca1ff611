"""A staged model that an agent is still receiving, as a job sees it: which of its bytes are there already."""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from slurmext.staging.errors import NotStaged
from slurmext.staging.manifest import parse_manifest
from slurmext.staging.names import OWN

_HEAD_BYTES: Final = 64  # slurmext.staging.store.ready
_KNOWN: Final = slice(12, 44)  # there: the manifest's fingerprint
_POLL_S: Final = 0.004
_CHECK_S: Final = 0.05


class Stalled(NotStaged):
    """Nothing more arrived, or the model was evicted, while it was waited for."""


class Arriving:
    """The files at `paths` of the model in `directory`; gives up when nothing arrives for `wait_s`.

    In memory the agent changes the file `ready` as chunks arrive; on disk it puts a new one in its place now and then.
    """

    def __init__(self, directory: Path, paths: Sequence[Path], *, wait_s: float) -> None:
        self._own = directory / OWN
        self._wait_s = wait_s
        self._paths = paths
        try:
            raw = (self._own / "manifest").read_bytes()
            self._manifest = parse_manifest(raw)
            self._known = hashlib.sha256(raw).digest()
            self._inode, self._ready = self._now_ready()
            self._files: list[BinaryIO] = [path.open("rb", buffering=0) for path in paths]
            self.views = [mapped(file) for file in self._files]
        except (OSError, ValueError) as error:
            raise Stalled(f"{directory}: {error}") from error
        numbers = {entry.name: number for number, entry in enumerate(self._manifest.files)}
        self._numbers = [numbers[path.relative_to(directory).as_posix()] for path in paths]
        self._torn: set[tuple[int, int]] = set()
        self._count, self._progress_s, self._checked_s = 0, time.monotonic(), 0.0

    def wait(self, file: int, begin: int, end: int) -> None:
        """Until these bytes of a file are there; to be called once for bytes that the job may write to."""
        while not self._here(file, begin, end):
            self._check()
            time.sleep(_POLL_S)
        for page in {begin // mmap.PAGESIZE, max(begin, end - 1) // mmap.PAGESIZE}:
            self._mend(file, page, begin, end)

    def _mend(self, file: int, page: int, begin: int, end: int) -> None:
        """What a job writes to a tensor makes copies of its pages, which keep what was not there yet of the next one:
        bytes of such a page are put there when they are given.
        """
        low, high = page * mmap.PAGESIZE, min((page + 1) * mmap.PAGESIZE, len(self.views[file]))
        if (file, page) in self._torn:
            first, last = max(low, begin), min(high, end)
            os.preadv(self._files[file].fileno(), [self.views[file][first:last]], first)
        elif not self._here(file, low, high):
            self._torn.add((file, page))

    def _here(self, file: int, begin: int, end: int) -> bool:
        chunks = self._manifest.chunks_of(self._numbers[file], begin, end)
        return self._ready[_HEAD_BYTES + chunks.start : _HEAD_BYTES + chunks.stop].count(1) == len(chunks)

    def _check(self) -> None:
        now_s = time.monotonic()
        if now_s - self._checked_s < _CHECK_S:
            return
        self._checked_s = now_s
        try:
            inode, ready = self._now_ready(self._inode)
            if inode != self._inode and any(map(_is_another, self._paths, self._files)):
                raise FileNotFoundError  # it was evicted and has come again, elsewhere
        except (OSError, ValueError):
            raise Stalled(f"{self._own.parent} was evicted while it was waited for") from None
        self._inode, self._ready = inode, ready
        count = self._ready[_HEAD_BYTES:].count(1)
        if count != self._count:
            self._count, self._progress_s = count, now_s
        if now_s - self._progress_s > self._wait_s:
            raise Stalled(f"nothing more of {self._own.parent} arrived for {self._wait_s:g} s")

    def _now_ready(self, known: int | None = None) -> tuple[int | None, mmap.mmap | bytes]:
        """The file `ready`, as it is now if not the `known` one; where it is not made yet, nothing has arrived."""
        path = self._own / "ready"
        try:
            if known is not None and path.stat().st_ino == known:
                return known, self._ready
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                head = file.read(_HEAD_BYTES)
                if head[_KNOWN] == self._known:
                    return status.st_ino, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except FileNotFoundError:
            head = b""
        if known is not None or any(head):
            raise FileNotFoundError(f"{path} is another model's")
        (self._own / "manifest").stat()
        return None, bytes(_HEAD_BYTES + self._manifest.chunk_count)


def mapped(path: Path | BinaryIO) -> memoryview:
    """A file in memory."""
    if isinstance(path, Path):
        with path.open("rb") as file:
            return mapped(file)
    # Private and writable: torch wants to be able to write, and what is written stays in this process.
    return memoryview(mmap.mmap(path.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE))


def _is_another(path: Path, file: BinaryIO) -> bool:
    return path.stat().st_ino != os.fstat(file.fileno()).st_ino
