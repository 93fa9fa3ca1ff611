"""Faster places than the checkpoint directory: copies that the node's agent keeps in memory, here and on another node.

After a checkpoint is on disk its files are handed to the agent as open descriptors (`offer`); it copies them, and gives
another node's agent a copy as well. The next run asks its own node's agent (`places`), which fetches them from the
other node when this one has none, and gets descriptors back; the engine reads them like any directory. Without an agent
there are no copies, and nothing else changes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slurmext.checkpoint import agent
from slurmext.checkpoint.engine.folder import Saved, saved_in
from slurmext.checkpoint.errors import CheckpointError
from slurmext.checkpoint.folders import own_folder

MANIFEST = "manifest.json"
STALL_S = 15.0
"""A copy may have to come over the network first: it is waited for as long as it grows."""
PAUSE_S = 60.0
COPY_CHUNK = 16 << 20
TELL_EVERY_S = 2.0


class Tiers:
    """The copies of this job's checkpoints. `rank`: only this rank's files are offered, and the manifest; None: all.
    `newest`: some are in memory only, so that the newest is looked for on all nodes.
    """

    def __init__(
        self, environment: Mapping[str, str] | None = None, *, rank: int | None = None, newest: bool = False
    ) -> None:
        known = os.environ if environment is None else environment
        self._address = known.get("SLURMEXT_AGENT_SOCKET", "")
        self._job = known.get("SLURM_JOB_ID", "")
        self._rank, self._newest = rank, newest
        self._silent_until_s = 0.0
        self._folder: Path | None = None
        self._descriptors: list[int] = []
        self._fetched = False
        self._offering: threading.Thread | None = None
        self.kept_serial = 0
        """The newest checkpoint that is in memory anyway."""
        self.drain: Drain | None = None
        """A copy on its way into the checkpoint directory."""

    @property
    def there(self) -> bool:
        """Whether there is an agent to ask."""
        return bool(self._address) and self._job.isdecimal() and time.monotonic() >= self._silent_until_s

    def offer(self, path: Path) -> None:
        """Have this finished checkpoint copied, in the background. Never raises."""
        if self.there and all(saved.serial > self.kept_serial for saved in saved_in(path.parent) if saved.path == path):
            self._offering = threading.Thread(target=self._offer, args=(path,), name="slurmext-offer", daemon=True)
            self._offering.start()

    def _offer(self, path: Path) -> bool:
        mine = f"rank-{self._rank:05d}" if self._rank is not None else "rank-"
        descriptors: list[int] = []
        names: list[str] = []
        try:
            with os.scandir(path) as entries:
                found = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
            # The manifest last: without it a copy is no checkpoint.
            for name in [one for one in found if one.startswith(mine)] + [MANIFEST]:
                descriptors.append(os.open(path / name, os.O_RDONLY | os.O_CLOEXEC))
                names.append(name)
            for at in range(0, len(names), agent.MOST_FILES):
                part = slice(at, at + agent.MOST_FILES)
                asked = {"op": "ckpt_keep", "name": path.name, "files": names[part]}
                reply, _ = self.ask(asked, descriptors[part])
                if reply.get("ok") is not True:
                    return self._quiet(str(reply.get("error")))
        except (OSError, ValueError) as error:
            return self._quiet(str(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def places(self) -> list[Path]:
        """Directories with copies of this job's checkpoints, for the engine; empty when there are none. Never raises.

        The files in them are links to descriptors of this process: they are good until `close`.
        """
        if not self._fetched and not self.there:
            return []
        try:
            if not self._fetched:
                self._fetch()
                self._fetched = True
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._quiet(str(error))
        return [] if self._folder is None else [self._folder]

    def any(self) -> bool:
        """Whether there is a copy of a checkpoint."""
        return any(any(place.iterdir()) for place in self.places())

    def restored(self, directory: Path, step: int, *, leads: bool) -> bool:
        """A state of `step` was restored. Was it there as a copy only, then the process that leads brings it into
        `directory` in the background, if this node has all of it. Else the copies are let go of.

        Returns whether it stays in memory only.
        """
        places = [] if self._folder is None else [one for one in saved_in(self._folder) if one.step == step]
        only = leads and bool(places) and not (directory / places[0].path.name).exists()
        if only and _is_whole(places[0]):
            name = places[0].path.name
            sys.stderr.write(f"slurmext.checkpoint: {name} was restored from a copy in memory\n")
            self.drain = Drain(places[0].path, directory, self.tell)
            self.drain.start(self.close)
            return False
        self.close()
        return only

    def tell(self, name: str, done_bytes: int, size_bytes: int) -> None:
        """How far a copy is on its way into the directory, for `slurmext ckpt show`."""
        if self.there:
            with contextlib.suppress(OSError, ValueError):
                self.ask({"op": "ckpt_drain", "name": name, "done_bytes": done_bytes, "size_bytes": size_bytes}, [])

    def close(self) -> None:
        """Let go of the copies."""
        if self._offering is not None:
            self._offering.join(agent.CONNECT_S)
        if self.drain is not None and not self.drain.over:
            self.drain.wait()
            return
        for descriptor in self._descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._descriptors = []
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _fetch(self) -> None:
        self.close()
        self._take({"op": "ckpt_fetch"})
        if self._newest:
            self._own_folder()
            self._take({"op": "ckpt_gather", "name": "", "files": [MANIFEST]})
        for place in list(self._folder.iterdir()) if self._folder is not None else []:
            if not (place / MANIFEST).is_symlink():  # it did not become a checkpoint
                shutil.rmtree(place, ignore_errors=True)

    def gather(self, name: str, files: Sequence[str]) -> None:
        """Have these files of a checkpoint among the copies, from other nodes' memory if need be. Never raises."""
        if not self.there:
            return
        try:
            for at in range(0, len(files), agent.MOST_FILES):
                part = list(files[at : at + agent.MOST_FILES])
                self._take({"op": "ckpt_gather", "name": name, "files": part})
        except (OSError, ValueError, KeyError, TypeError) as error:
            self._quiet(str(error))

    def _take(self, request: Mapping[str, Any]) -> None:
        """Have the agent hand out what is asked for, once it is there."""
        skip, pending, until_s = 0, -1, time.monotonic() + STALL_S
        while True:
            reply, descriptors = self.ask({**request, "skip": skip}, [])
            self._descriptors += descriptors
            if reply.get("ok") is not True:
                self._quiet(str(reply.get("error")))
                return
            if "pending_bytes" in reply:
                if reply["pending_bytes"] > pending:
                    pending, until_s = reply["pending_bytes"], time.monotonic() + STALL_S
                if time.monotonic() > until_s:
                    self._quiet("the copy on another node does not come")
                    return
                continue
            for entry, descriptor in zip(reply["files"], descriptors, strict=True):
                place = self._own_folder() / os.path.basename(entry["name"])  # noqa: PTH119 - whatever is said, below it
                place.mkdir(mode=0o700, exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    (place / os.path.basename(entry["file"])).symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")  # noqa: PTH119
            skip += len(reply["files"])
            if not reply.get("more") or not reply["files"]:
                return

    def _own_folder(self) -> Path:
        if self._folder is None:
            self._folder, held = own_folder()
            self._descriptors.append(held)
        return self._folder

    def ask(self, request: Mapping[str, Any], descriptors: list[int]) -> tuple[dict[str, Any], list[int]]:
        """One request about this job to the agent. Raises OSError and ValueError."""
        return agent.ask(self._address, {"job_id": int(self._job), **request}, descriptors, patience_s=STALL_S)

    def _quiet(self, why: str) -> bool:
        """Say once what is the matter, and do not ask again for a while."""
        self._silent_until_s = time.monotonic() + PAUSE_S
        if why.startswith(("unknown op", "'files'", "this node keeps no")):
            return False  # an agent without copies is nothing to talk about
        sys.stderr.write(f"slurmext.checkpoint: no copies in memory for now: {why}\n")
        return False


class Drain:
    """Copies a checkpoint from a faster place into the checkpoint directory, in the background.

    `done_bytes` of `size_bytes` are there; the checkpoint gets its name when all of it is on disk.
    """

    def __init__(self, source: Path, directory: Path, tell: Callable[[str, int, int], None] | None = None) -> None:
        self.source, self.directory, self._tell = source, directory, tell
        self._told_s = time.monotonic()
        self.size_bytes = sum(path.stat().st_size for path in source.iterdir())
        self.done_bytes = 0
        self.error: str | None = None
        self.over = False
        self._after: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="slurmext-drain", daemon=True)

    def start(self, after: Callable[[], None] = lambda: None) -> None:
        """Begin; `after` is called when it is over."""
        self._after = after
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it is there, after waiting for it."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return self.over and self.error is None

    def _run(self) -> None:
        try:
            self._bring()
        finally:
            self.over = True
            self._after()

    def _bring(self) -> None:
        final = self.directory / self.source.name
        draft = self.directory / f".new-drain-{os.getpid()}-{self.source.name}"
        try:
            if final.exists():
                self.done_bytes = self.size_bytes
                return
            draft.mkdir()
            for path in sorted(self.source.iterdir()):
                self._copy(path, draft / path.name)
            _sync(draft)
            draft.rename(final)
            _sync(self.directory)
            self._progress(every_s=0)
        except OSError as error:
            self.error = f"{self.directory}: {error.strerror}"
            sys.stderr.write(f"slurmext.checkpoint: {self.source.name} was not copied to {self.error}\n")
            shutil.rmtree(draft, ignore_errors=True)

    def _progress(self, *, every_s: float) -> None:
        now = time.monotonic()
        if self._tell is not None and now - self._told_s >= every_s:
            self._told_s = now
            self._tell(self.source.name, self.done_bytes, self.size_bytes)

    def _copy(self, source: Path, target: Path) -> None:
        with source.open("rb", buffering=0) as read, target.open("xb", buffering=0) as written:
            while chunk := read.read(COPY_CHUNK):
                written.write(chunk)
                self.done_bytes += len(chunk)
                self._progress(every_s=TELL_EVERY_S)
            os.fsync(written.fileno())


def _is_whole(saved: Saved) -> bool:
    """Whether all ranks' files are there: a node has those of its own ranks only."""
    try:
        return all(
            (saved.path / name).stat().st_size == size for part in saved.manifest().parts for name, size in part.packs
        )
    except (OSError, CheckpointError):
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
