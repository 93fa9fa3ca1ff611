"""Shared storage, or this node's disk, as a peer: its files are read as if somebody sent them."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop
from pathlib import Path

from slurmext.adapters.transport.ahead import DEPTH, Landing, Piece, ReadAhead, bypass_cache
from slurmext.adapters.transport.framing import MOST_RUN
from slurmext.adapters.transport.identity import reading_as
from slurmext.staging.errors import BadModel
from slurmext.staging.manifest import CHUNK_BYTES, Manifest
from slurmext.staging.store.staged import StagedModel
from slurmext.staging.transport import Claim, LinkLost, Peer, Run
from slurmext.staging.tree import find_tree


class FileInlet:
    """Reads the chunks that are wanted from `path`, in the manifest's order, several runs ahead of the one asked for.

    A file that was changed since the import shows in the checksums, as damage by a peer would. With `owner` the files
    are opened with this user's rights, so that nobody has root read for him what he may not.

    Runs are read straight `into` a staged model whose chunks `claim` has given to this inlet until they are filled or
    it is closed, and over a buffer where it has not.
    """

    def __init__(
        self, peer: Peer, path: Path, manifest: Manifest, *,
        owner: int | None = None, into: StagedModel | None = None, claim: Claim | None = None,
    ) -> None:  # fmt: skip
        self._into, self._claim = into, claim
        self._peer = peer
        self._manifest = manifest
        self._lock = threading.Condition()
        self._wanted: list[int] = []  # ranks
        self._dropped: set[int] = set()
        self._closed = False
        self._ahead: deque[tuple[Run, Piece | Landing]] = deque()
        self._piece: Piece | Landing | None = None
        self._descriptors: list[int] = []
        self.read_bytes = 0
        """Bytes read so far."""
        try:
            with reading_as(owner):  # nothing else in here: a thread that began here would keep the user's rights
                self._open(path)
        except (BadModel, OSError) as error:
            self._release()
            raise LinkLost(f"{path}: {error}") from error
        self._reader = ReadAhead(MOST_RUN * CHUNK_BYTES)

    def _open(self, path: Path) -> None:
        tree, _ = find_tree(path, self._manifest.key.revision if (path / "snapshots").is_dir() else None)
        for entry in self._manifest.files:
            with tree.open(entry.name) as descriptor:
                self._descriptors.append(os.dup(descriptor))
            bypass_cache(self._descriptors[-1])
            if os.fstat(self._descriptors[-1]).st_size != entry.size:
                raise BadModel(f"{path}/{entry.name} is not {entry.size} bytes long any more")

    @property
    def peer(self) -> Peer:
        return self._peer

    def want(self, chunks: Sequence[int], *, drop: bool = False) -> None:
        with self._lock:
            if drop:
                self._dropped.update(chunks)
            else:
                self._dropped.difference_update(chunks)
                self._wanted = sorted({*self._wanted, *map(self._manifest.rank, chunks)})
                heapify(self._wanted)
            self._lock.notify_all()

    def receive(self) -> Run | int:
        while True:
            with self._lock:
                if self._closed:
                    raise LinkLost(f"{self._peer.node}: closed")
                run = self._next() if len(self._ahead) < DEPTH else None
                if run is None and not self._ahead:
                    if not self._lock.wait(1):
                        return self._manifest.chunk_count
                    continue
            if run is not None:
                # Without the lock: whoever decides on claims may be calling in here.
                self._ahead.append((run, self._start(run)))
                continue
            self._done_with_piece()
            run, self._piece = self._ahead.popleft()
            return run

    def fill(self, index: int, place: memoryview | None) -> None:
        if place is None:
            return
        if self._closed or self._piece is None:
            raise LinkLost(f"{self._peer.node}: closed")
        chunk = self._manifest.chunk(index)
        try:
            whole = self._piece.copy(chunk.offset, place)
        except OSError as error:
            raise LinkLost(f"{self._peer.node}: {error}") from error
        if not whole:
            raise LinkLost(f"{self._manifest.files[chunk.file].name} became shorter")
        self.read_bytes += chunk.length

    def stop(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify_all()

    def close(self) -> None:
        self.stop()
        self._reader.close()
        self._done_with_piece()
        for _, piece in self._ahead:
            piece.release()
        self._ahead.clear()
        self._release()

    def _next(self) -> Run | None:
        while self._wanted:
            first = self._manifest.of_rank(heappop(self._wanted))
            if first in self._dropped:
                continue
            file, count = self._manifest.chunk(first).file, 1
            limit = min(MOST_RUN, self._manifest.starts[file + 1] - first)
            while count < limit and self._wanted and self._chunk_due() == first + count not in self._dropped:
                heappop(self._wanted)
                count += 1
            return Run(first, count)
        return None

    def _chunk_due(self) -> int:
        return self._manifest.of_rank(self._wanted[0])

    def _start(self, run: Run) -> Piece | Landing:
        first, last = self._manifest.chunk(run.first), self._manifest.chunk(run.first + run.count - 1)
        length = last.offset + last.length - first.offset
        if self._into is not None and self._claim is not None and self._claim(run):
            place = self._into.span(first.file, first.offset, first.offset + length)
            return self._reader.start_into(self._descriptors[first.file], first.offset, place)
        return self._reader.start(self._descriptors[first.file], first.offset, length)

    def _done_with_piece(self) -> None:
        if self._piece is not None:
            self._piece.release()
            self._piece = None

    def _release(self) -> None:
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)
