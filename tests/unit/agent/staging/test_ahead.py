"""Reading ahead past the page cache, and what is done where that is refused."""

from __future__ import annotations

import errno
import fcntl
import os
import threading

import pytest

from slurmext.adapters.transport import ahead

SIZE = 3 * ahead.ALIGNMENT + 100


def test_every_thread_goes_on_where_direct_reads_are_refused(tmp_path, monkeypatch):
    """A file system may want more than sectors: two threads see that at once, and both have the bytes all the same."""
    content = os.urandom(2 * SIZE)
    (tmp_path / "f").write_bytes(content)
    real, together = os.preadv, threading.Barrier(2)

    def preadv(descriptor, places, offset):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            together.wait(20)
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, places, offset)

    descriptor = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        ahead.bypass_cache(descriptor)
        if not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            pytest.skip("this file system reads through the page cache alone")
        monkeypatch.setattr(os, "preadv", preadv)
        reader = ahead.ReadAhead(SIZE)
        pieces = [(offset, reader.start(descriptor, offset, SIZE)) for offset in (0, SIZE)]
        for offset, piece in pieces:
            place = bytearray(SIZE)
            assert piece.copy(offset, memoryview(place))
            assert place == content[offset : offset + SIZE]
            piece.release()
        reader.close()
    finally:
        os.close(descriptor)
