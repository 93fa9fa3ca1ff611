"""Files of models given up, kept for the next: their pages are there already, which doubles the speed of filling them.

A file goes into the stock only when nobody else has it open or mapped: a job that kept a mapping of a public model
must not see a private one appear in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final

from slurmext.staging.store.memory import held_by_others, pages_resident

_LEAST: Final = 1 << 20
_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class Spares:
    """At most `limit_bytes` of files in a directory that only root enters; 0 keeps none."""

    def __init__(self, directory: Path, *, limit_bytes: int) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._numbers = count()
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)
        for path in directory.iterdir():  # of an agent that died: whether it had checked them is not known
            path.unlink()

    @property
    def total_bytes(self) -> int:
        """Bytes of all spare files."""
        return sum(size for size, _ in self._stock())

    def give(self, paths: Iterable[Path]) -> None:
        """Take over files that are about to be removed, as far as there is room and nobody else has them."""
        for path in paths:
            with suppress(OSError):
                descriptor = os.open(path, _FLAGS)
                try:
                    size = pages_resident(descriptor)
                    if size < _LEAST or self.total_bytes + size > self._limit_bytes:
                        continue
                    os.fchmod(descriptor, 0o600)
                    kept = self._directory / f"{next(self._numbers)}"
                    path.rename(kept)  # from here on nobody can open it any more
                    if held_by_others(descriptor):
                        kept.unlink()
                finally:
                    os.close(descriptor)

    def take(self, path: Path, size: int) -> bool:
        """Put the spare file that fits best at `path`; False when there is none that helps."""
        fitting = [(abs(have - size), have, spare) for have, spare in self._stock() if size >= _LEAST]
        if not fitting:
            return False
        min(fitting)[2].rename(path)
        return True

    def shrink(self, *, keep_free: int, free: int) -> None:
        """Remove spare files, largest first, until `keep_free` bytes of the file system are free; `free` are now."""
        for size, spare in sorted(self._stock(), reverse=True):
            if free >= keep_free:
                return
            spare.unlink()
            free += size

    def _stock(self) -> list[tuple[int, Path]]:
        return [(path.stat().st_blocks * 512, path) for path in self._directory.iterdir()]
