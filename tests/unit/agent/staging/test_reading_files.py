"""Storage and the own disk as sources: read past the page cache, each byte where it belongs."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from slurmext.adapters.transport.files import FileInlet
from slurmext.staging.importer import Imported
from slurmext.staging.plan.fabric import STORAGE
from slurmext.staging.transport import Peer


def cached(path: Path) -> int:
    """How many of the file's pages are in the page cache."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        told = (ctypes.c_ubyte * -(-len(mapping) // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapping)
        assert ctypes.CDLL(None).mincore(ctypes.byref(start), ctypes.c_size_t(len(mapping)), told) == 0
        del start
        return sum(page & 1 for page in told)


def forget(path: Path) -> None:
    """Have the page cache let go of it."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fdatasync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def test_files_are_read_past_the_page_cache(model: Imported):
    """A model is read once: it takes no other's place there, and no processor for another copy."""
    path = model.tree.root / "model.safetensors"
    forget(path)
    if cached(path):
        pytest.skip("this file system keeps what it is told to forget")
    inlet = FileInlet(Peer(node=STORAGE, address=str(path)), model.tree.root, model.manifest)
    inlet.want(range(model.manifest.chunk_count))
    got: dict[int, bytes] = {}
    while len(got) < model.manifest.chunk_count:
        run = inlet.receive()
        assert not isinstance(run, int)
        for index in range(run.first, run.first + run.count):
            place = bytearray(model.manifest.lengths[index])
            inlet.fill(index, memoryview(place))
            got[index] = bytes(place)
    inlet.close()
    assert cached(path) == 0
    for index, content in got.items():
        chunk = model.manifest.chunk(index)
        whole = (model.tree.root / model.manifest.files[chunk.file].name).read_bytes()
        assert content == whole[chunk.offset : chunk.offset + chunk.length]
