"""What prologs and epilogs left in the notes folder: `NAME=value` items, each ended by NUL, the last one `end`.

Only root can write there, and a note stays until it has been taken in, over a restart of the agent as well.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from watchfiles import watch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_NOTE_BYTES = 65536
UNFINISHED_S = 5.0
"""A note without its end is being written; one this old was cut short (disk full, hook killed)."""
_NAME = re.compile(r"(\d+)\.(\d*)\.(prolog|epilog)")
# watchfiles looks this often for what inotify brought, and waits that long for more.
_STEP_MS, _DEBOUNCE_MS = 20, 100


class Notes:
    """A thread that hands each note to `take` as a hook's request, in the order in which they were written."""

    def __init__(self, folder: Path, node: str, take: Callable[[dict[str, Any]], object]) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        self._folder = folder
        self._node = node
        self._take = take
        self._taking = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notes", daemon=True)

    def start(self) -> None:
        """Take in what is there, then what comes."""
        self.take_all()
        self._thread.start()

    def stop(self) -> None:
        """Stop; what was not taken in stays for the next agent."""
        self._stop.set()
        self._thread.join(2)
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    def take_all(self) -> bool:
        """Take in every finished note; True when an unfinished one is left for later."""
        with self._taking:
            return self._take_all()

    def _take_all(self) -> bool:
        unfinished = False
        for path, written_s, (job_id, restarts, op) in self._waiting():
            request = _read(path)
            if request is None and time.time() - written_s < UNFINISHED_S:
                unfinished = True
                continue
            if request is None:
                log.warning("%s was cut short; dropped", path)
            else:
                env = {"SLURM_JOB_RESTART_COUNT": restarts} | request
                uid = env.get("SLURM_JOB_UID", "")
                self._take({"op": op, "job_id": int(job_id), "uid": int(uid) if uid.isdecimal() else -1,
                            "node": self._node, "env": env, "at_s": written_s})  # fmt: skip
            path.unlink(missing_ok=True)
        return unfinished

    def _waiting(self) -> list[tuple[Path, float, tuple[str, ...]]]:
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                match = _NAME.fullmatch(entry.name)
                if match and entry.is_file(follow_symlinks=False):
                    found.append(
                        (entry.stat(follow_symlinks=False).st_mtime_ns, match.groups(), self._folder / entry.name)
                    )
        # The clock of a file system is coarse: a job's own notes are ordered by run, and the prolog comes first.
        found.sort(key=lambda item: (item[0], item[1][0], int(item[1][1] or 0), item[1][2] == "epilog"))
        return [(path, mtime_ns / 1e9, names) for mtime_ns, names, path in found]

    def _run(self) -> None:
        changes = watch(self._folder, stop_event=self._stop, debounce=_DEBOUNCE_MS, step=_STEP_MS, recursive=False,
                        rust_timeout=1000, yield_on_timeout=True, watch_filter=None)  # fmt: skip
        for _ in changes:
            try:
                while self.take_all() and not self._stop.wait(0.05):
                    pass
            except Exception:
                log.exception("%s", self._folder)
                self._stop.wait(1)


def _read(path: Path) -> dict[str, str] | None:
    """A note's items, None when its end is not there (yet)."""
    with path.open("rb") as file:
        content = file.read(MAX_NOTE_BYTES)
    *items, last, rest = content.split(b"\0") if b"\0" in content else (b"", b"")
    if last != b"end" or rest:
        return None
    pairs = (item.decode(errors="surrogateescape").partition("=") for item in items)
    return {name: value for name, _, value in pairs if value}
