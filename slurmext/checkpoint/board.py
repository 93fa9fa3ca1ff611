"""How ranks agree on the step to save at, without a collective: small files in the checkpoint directory.

    .ranks-<run>/request      the number of the newest save that was asked for, and why
                 rank-00003   rank 3's promise: for save N it does not go past step S before the decision
                 decision     for save N all save at step T, the largest promise

Nobody has passed the largest promise, so everybody can still reach it. A rank's thread writes its promise even while
the program is in a long C call. Records have a fixed length, are overwritten in place and read by opening the file
again: that is what network file systems keep consistent (close-to-open).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from pathlib import Path

from slurmext.checkpoint.errors import write_error

LENGTH = 64
ABANDONED = -1
GONE = 1 << 40
"""A rank that will save no more promises for this save and all before it."""
NAMES = ".ranks-"


class Board:
    """The files of one run. `request`, `promise` and `decide` write, the others read; a missing file reads as zeros."""

    def __init__(self, directory: Path, *, run: str, rank: int) -> None:
        self._folder = directory / f"{NAMES}{run}"
        self._rank = rank
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.promise(0, 0)
            if rank == 0:
                for name in ("request", "decision"):
                    if self._read(name) == (0, 0, ""):
                        self._write(name, 0, 0)
        except OSError as error:
            raise write_error(directory, error) from error

    def request(self, number: int, reason: str) -> None:
        """Ask all ranks for save `number`; several may."""
        self._write("request", number, 0, reason)

    def requested(self) -> tuple[int, str]:
        """The newest save that was asked for, and why."""
        number, _, reason = self._read("request")
        return number, reason

    def promise(self, number: int, step: int, reason: str = "") -> None:
        """Say that this rank does not go past `step` before save `number` is decided, and why it saves."""
        self._write(f"rank-{self._rank:05d}", number, step, reason)

    def promised(self, rank: int) -> tuple[int, int, str]:
        """A rank's newest promise: save, step, reason."""
        return self._read(f"rank-{rank:05d}")

    def decide(self, number: int, step: int, reason: str = "") -> None:
        """Rank 0: save `number` is at `step`, or ABANDONED, and for this reason."""
        self._write("decision", number, step, reason)

    def decided(self) -> tuple[int, int, str]:
        """The newest decision: save, step, reason."""
        return self._read("decision")

    def remove_others(self) -> None:
        """Rank 0: remove the boards of former runs."""
        for path in self._folder.parent.glob(f"{NAMES}*"):
            if path != self._folder:
                shutil.rmtree(path, ignore_errors=True)

    def _write(self, name: str, number: int, step: int, word: str = "") -> None:
        text = f"{number} {step} {word[:16] or '-'}"
        record = f"{zlib.crc32(text.encode()):08x} {text}".ljust(LENGTH - 1).encode() + b"\n"
        descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, record, 0)
        finally:
            os.close(descriptor)

    def _read(self, name: str) -> tuple[int, int, str]:
        with contextlib.suppress(OSError, ValueError):
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                checksum, _, text = os.pread(descriptor, LENGTH, 0).decode("ascii").rstrip().partition(" ")
            finally:
                os.close(descriptor)
            if int(checksum, 16) == zlib.crc32(text.encode()):  # else it is being written
                number, step, word = text.split(" ")
                return int(number), int(step), "" if word == "-" else word
        return 0, 0, ""
