"""One revision of a model on this node, whole or in part: its files, its good chunks, who waits for more of them."""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import xxhash

from slurmext.staging.access import Access
from slurmext.staging.errors import BadModel, NoRoom
from slurmext.staging.manifest import Manifest
from slurmext.staging.names import OWN, ModelKey
from slurmext.staging.store.memory import Prefault, map_file
from slurmext.staging.store.ready import ReadyMap

_FLUSH_BYTES: Final = 256 << 20
_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class StagedModel:
    """A model's directory, opened by the agent. Chunks are written through `view` and announced with `mark`."""

    def __init__(self, directory: Path, manifest: Manifest, fingerprint: str, *, durable: bool) -> None:
        self.directory = directory
        self.manifest = manifest
        self.fingerprint = fingerprint
        self.durable = durable
        """Whether what was announced must survive a power cut: the disk tier."""
        self.pins: set[str] = set()
        self.access = Access(uid=0)
        self.owner: int | None = None
        """Whose model it is; None: not known, so it shares nothing with others."""
        self.used_s = time.time()
        self.fault: str | None = None
        """Why nothing more can be received, None while it can."""
        self.changed = threading.Condition()
        self._flushing = threading.Lock()
        self._unflushed = 0
        self._listeners: list[Callable[[int], None]] = []
        self._descriptors: list[int] = []
        self._mappings: list[mmap.mmap | None] = []
        self._prefault: Prefault | None = None
        self._closed = False
        self._ready = ReadyMap(directory / OWN / "ready", manifest.chunk_count, fingerprint, mapped=not durable)
        self._ready_bytes = self._counted()
        self._kept = self._ready.ready
        try:
            for entry in manifest.files:
                descriptor = os.open(directory / entry.name, _FLAGS)
                self._descriptors.append(descriptor)
                if os.fstat(descriptor).st_size != entry.size:
                    raise BadModel(f"{directory / entry.name} is not {entry.size} bytes long: remove it")  # noqa: TRY301
                self._mappings.append(map_file(descriptor, entry.size))
        except BaseException:
            self.close()
            raise
        self._views = [memoryview(mapping) if mapping else memoryview(b"") for mapping in self._mappings]

    @property
    def key(self) -> ModelKey:
        """Which model."""
        return self.manifest.key

    @property
    def complete(self) -> bool:
        """Whether every chunk is good."""
        return self._ready.ready == self.manifest.chunk_count

    @property
    def settled(self) -> bool:
        """Whether it is complete and will still be after a power cut, on disk."""
        return self.complete and (not self.durable or self._kept == self.manifest.chunk_count)

    @property
    def ready_chunks(self) -> int:
        """How many chunks are good."""
        return self._ready.ready

    @property
    def ready_bytes(self) -> int:
        """Bytes of good chunks."""
        return self._ready_bytes

    def has(self, index: int) -> bool:
        """Whether a chunk is good."""
        return self._ready[index]

    def missing(self) -> list[int]:
        """Chunks that are not good, ascending."""
        return self._ready.missing()

    def descriptor(self, file: int) -> int:
        """An open descriptor of a file, for sending from."""
        return self._descriptors[file]

    def mapping(self, file: int) -> mmap.mmap | None:
        """The whole file as it is mapped; None of an empty one."""
        return self._mappings[file]

    def view(self, index: int) -> memoryview:
        """The bytes of a chunk, to write to before and to read from after `mark`."""
        chunk = self.manifest.chunk(index)
        return self.span(chunk.file, chunk.offset, chunk.offset + chunk.length)

    def span(self, file: int, begin: int, end: int) -> memoryview:
        """The bytes [begin, end) of a file."""
        return self._views[file][begin:end]

    def check(self, index: int) -> bool:
        """Whether the chunk's bytes have the manifest's checksum."""
        return xxhash.xxh3_128_digest(self.view(index)) == self.manifest.digest(index)

    def mark(self, index: int) -> None:
        """Announce a chunk that was checked."""
        with self.changed:
            if not self._ready.set(index):
                return
            for listener in self._listeners:
                listener(index)
            self._ready_bytes += self.manifest.lengths[index]
            self._unflushed += self.manifest.lengths[index]
            complete = self.complete
            if complete and not self.durable:
                self.changed.notify_all()
        if self.durable and (complete or self._unflushed >= _FLUSH_BYTES):
            self.flush()

    def follow(self, listener: Callable[[int], None]) -> list[int]:
        """Have `listener` called with each chunk that becomes good from now on; returns those that are.

        It is called with the model's lock held: it must be short and take no other lock.
        """
        with self.changed:
            self._listeners.append(listener)
            held = self._ready.snapshot()
        return [index for index, good in enumerate(held) if good]

    def unfollow(self, listener: Callable[[int], None]) -> None:
        """Stop calling it."""
        with self.changed:
            self._listeners = [other for other in self._listeners if other is not listener]

    def wait(self, timeout_s: float) -> bool:
        """Wait until the model is complete, on disk for good, or has a fault; returns whether it is complete."""
        with self.changed:
            return self.changed.wait_for(lambda: self.settled or self.fault is not None, timeout_s) and self.settled

    def fail(self, why: str) -> None:
        """Nothing more can be received."""
        with self.changed:
            self.fault = self.fault or why
            self.changed.notify_all()

    def flush(self) -> None:
        """Make what is good survive a power cut; nothing to do in memory. Raises NoRoom."""
        if not self.durable:
            return
        with self._flushing:
            with self.changed:
                state, self._unflushed = self._ready.snapshot(), 0
            try:
                for descriptor in self._descriptors:
                    os.fdatasync(descriptor)
                self._ready.save(state)
            except OSError as error:
                self.fail(f"{self.directory}: {error.strerror}")
                raise NoRoom(f"{self.directory} cannot be written: {error.strerror}") from error
            with self.changed:
                self._kept = state.count(1)
                self.changed.notify_all()

    def recheck(self) -> list[int]:
        """Check every chunk that is said to be good; forgets and returns those that are not."""
        held = self._ready.snapshot()
        bad = [index for index, good in enumerate(held) if good and not self.check(index)]
        with self.changed:
            self._ready.clear(bad)
            self._ready_bytes = self._counted()
        if bad:
            self.flush()
        return bad

    def prefault(self) -> None:
        """Fault the pages in ahead of what will be received, in the background; for memory only."""
        if self.durable or self.complete or self._prefault is not None:
            return
        mappings = [mapping for mapping in self._mappings if mapping is not None]
        self._prefault = Prefault(mappings, on_full=lambda: self.fail(f"no memory is left for {self.key}"))
        self._prefault.start()

    def _counted(self) -> int:
        held = self._ready.snapshot()
        return sum(length for length, good in zip(self.manifest.lengths, held, strict=True) if good)

    def close(self) -> None:
        """Let go of files and mappings. A mapping that is still being read from goes with its last reader."""
        if self._closed:
            return
        self._closed = True
        if self._prefault is not None:
            self._prefault.stop()
        self._views = []
        for mapping in self._mappings:
            if mapping is not None:
                try:
                    mapping.close()
                except BufferError:
                    continue
        self._ready.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []
