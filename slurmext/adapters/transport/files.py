"""Shared storage, or this node's disk, as a peer: its files are read as if somebody sent them."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from heapq import heapify, heappop
from pathlib import Path
from typing import Final

from slurmext.adapters.transport.framing import MOST_RUN
from slurmext.staging.errors import BadModel
from slurmext.staging.manifest import Manifest
from slurmext.staging.transport import LinkLost, Peer, Run
from slurmext.staging.tree import find_tree

_AHEAD_BYTES: Final = 64 << 20


class FileInlet:
    """Reads the chunks that are wanted from `path`, lowest first. The kernel reads ahead, which is reading in parallel.

    A file that was changed since the import shows in the checksums, as damage by a peer would.
    """

    def __init__(self, peer: Peer, path: Path, manifest: Manifest) -> None:
        self._peer = peer
        self._manifest = manifest
        self._lock = threading.Condition()
        self._wanted: list[int] = []
        self._dropped: set[int] = set()
        self._closed = False
        self._ahead = -1, 0
        self._descriptors: list[int] = []
        self.read_bytes = 0
        """Bytes read so far."""
        try:
            tree, _ = find_tree(path, manifest.key.revision if (path / "snapshots").is_dir() else None)
            for entry in manifest.files:
                with tree.open(entry.name) as descriptor:
                    self._descriptors.append(os.dup(descriptor))
                if os.fstat(self._descriptors[-1]).st_size != entry.size:
                    raise BadModel(f"{path}/{entry.name} is not {entry.size} bytes long any more")  # noqa: TRY301
        except BadModel as error:
            self._release()
            raise LinkLost(f"{path}: {error}") from error

    @property
    def peer(self) -> Peer:
        return self._peer

    def want(self, chunks: Sequence[int], *, drop: bool = False) -> None:
        with self._lock:
            if drop:
                self._dropped.update(chunks)
            else:
                self._dropped.difference_update(chunks)
                self._wanted = sorted({*self._wanted, *chunks})
                heapify(self._wanted)
            self._lock.notify_all()

    def receive(self) -> Run | int:
        with self._lock:
            while not self._closed:
                if run := self._next():
                    return run
                if not self._lock.wait(1):
                    return self._manifest.chunk_count
        raise LinkLost(f"{self._peer.node}: closed")

    def fill(self, index: int, place: memoryview | None) -> None:
        if place is None:
            return
        chunk = self._manifest.chunk(index)
        if self._closed:
            raise LinkLost(f"{self._peer.node}: closed")
        descriptor = self._descriptors[chunk.file]
        self._read_ahead(descriptor, chunk.file, chunk.offset)
        done = 0
        while done < chunk.length:
            try:
                count = os.preadv(descriptor, [place[done:]], chunk.offset + done)
            except OSError as error:
                raise LinkLost(f"{self._peer.node}: {error}") from error
            if not count:
                raise LinkLost(f"{self._manifest.files[chunk.file].name} became shorter")
            done += count
        self.read_bytes += chunk.length

    def stop(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    def close(self) -> None:
        self.stop()
        self._release()

    def _next(self) -> Run | None:
        while self._wanted:
            first = heappop(self._wanted)
            if first in self._dropped:
                continue
            file, count = self._manifest.chunk(first).file, 1
            limit = min(MOST_RUN, self._manifest.starts[file + 1] - first)
            while count < limit and self._wanted and self._wanted[0] == first + count not in self._dropped:
                heappop(self._wanted)
                count += 1
            return Run(first, count)
        return None

    def _read_ahead(self, descriptor: int, file: int, offset: int) -> None:
        known, until = self._ahead
        if file != known or offset + _AHEAD_BYTES // 2 > until or offset < until - 2 * _AHEAD_BYTES:
            begin = max(offset, until) if file == known and offset >= until - _AHEAD_BYTES else offset
            os.posix_fadvise(descriptor, begin, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
            self._ahead = file, begin + _AHEAD_BYTES

    def _release(self) -> None:
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)
