"""Files written and read past the page cache (O_DIRECT), through it where the file system refuses."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import Any

from slurmext.checkpoint.engine.errors import BadCheckpointError
from slurmext.checkpoint.engine.stream import PAGE

_DIRECT = getattr(os, "O_DIRECT", 0)
_fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)
if _fallocate is not None:
    _fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


class _File:
    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        try:
            self.fd = os.open(path, flags | _DIRECT, 0o666)
            self.direct = bool(_DIRECT)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
                raise
            # Some systems make the file before they refuse.
            self.fd = os.open(path, flags & ~os.O_EXCL, 0o666)
            self.direct = False

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)

    def _through_the_cache(self) -> None:
        if self.direct:
            fcntl.fcntl(self.fd, fcntl.F_SETFL, fcntl.fcntl(self.fd, fcntl.F_GETFL) & ~_DIRECT)
            self.direct = False


class NewFile(_File):
    """A file being written, from several threads. Raises OSError."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW)

    def reserve(self, size: int) -> None:
        """Take the space now: a full disk shows before the work, and parallel writes need not wait for each other."""
        # Not posix_fallocate, which writes every page where the file system cannot reserve.
        if _fallocate is not None and size and _fallocate(self.fd, 0, 0, size):
            number = ctypes.get_errno()
            if number in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
                raise OSError(number, os.strerror(number), str(self.path))

    def write(self, content: memoryview, offset: int) -> None:
        """Write all of it; memory, size and offset are multiples of 4096."""
        while content:
            try:
                count = os.pwrite(self.fd, content, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not self.direct:
                    raise
                self._through_the_cache()
                continue
            if count == 0:
                raise OSError(errno.EIO, "nothing was written", str(self.path))
            content, offset = content[count:], offset + count
            if content and count % PAGE:
                self._through_the_cache()

    def finish(self, size: int) -> None:
        """Cut to `size` bytes and make it durable."""
        os.ftruncate(self.fd, size)
        os.fsync(self.fd)


class OldFile(_File):
    """A file being read, from several threads. Raises BadCheckpointError when it is not a file of `size` bytes."""

    def __init__(self, path: Path, size: int) -> None:
        try:
            # Without O_NONBLOCK a pipe in a file's place would stop the job for ever.
            super().__init__(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise BadCheckpointError(f"{path.name} cannot be read: {error.strerror}") from error
        state = os.fstat(self.fd)
        if not stat.S_ISREG(state.st_mode):
            self.close()
            raise BadCheckpointError(f"{path.name} is not a regular file")
        if state.st_size != size:
            self.close()
            raise BadCheckpointError(f"{path.name} has {state.st_size} bytes instead of {size}")

    def read(self, into: memoryview, offset: int) -> None:
        """Fill `into`. Raises BadCheckpointError."""
        try:
            while into:
                try:
                    count = os.preadv(self.fd, [into], offset)
                except OSError as error:
                    if error.errno != errno.EINVAL or not self.direct:
                        raise
                    self._through_the_cache()
                    continue
                if count == 0:
                    raise BadCheckpointError(f"{self.path.name} ends at byte {offset}")
                into, offset = into[count:], offset + count
                if into and count % PAGE:
                    self._through_the_cache()
        except OSError as error:
            raise BadCheckpointError(f"{self.path.name} cannot be read at byte {offset}: {error.strerror}") from error


def write_small(path: Path, content: bytes) -> None:
    """A new file, durable when this returns (its name is when the directory is synced)."""
    with path.open("xb", buffering=0) as file:
        view: Any = memoryview(content)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


def read_small(path: Path) -> bytes:
    """All of a file. Raises BadCheckpointError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BadCheckpointError(f"{path.name} is not a regular file")
            with open(descriptor, "rb", buffering=0, closefd=False) as file:
                return file.readall()
        finally:
            os.close(descriptor)
    except OSError as error:
        raise BadCheckpointError(f"{path.name} cannot be read: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Make a rename or a new name in the directory durable (fsync(2): the file's own fsync does not)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
