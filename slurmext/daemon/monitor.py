"""The invariant monitor: every cycle against the laws of the contract, beside the cycles and never in their way.

A law that is broken becomes an event of the kind `invariant`, with the snapshot and the plan in files to replay
(`slurmext plan --snapshot FILE`), and is counted. Nothing it finds, and nothing that goes wrong in it, stops the
daemon.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from slurmext.errors import SlurmextError
from slurmext.model.state import Event
from slurmext.policy.invariants import Violation, Watch

if TYPE_CHECKING:
    from slurmext.policy.invariants.over_time import Look
    from slurmext.ports import Store

log = logging.getLogger(__name__)

KEPT_FILES = 10
"""So many snapshots are kept, the newest, each with its plan."""
MOST_EVENTS = 200
"""So many events an hour; what is broken more often is only counted."""
_BACKLOG = 8
_FREE_S = 0.05
_REST = 9.0
"""After a check that took longer than _FREE_S it rests this many times as long: a tenth of a core at most."""


class Monitor:
    """A thread that checks what `see` is given. `folder` is for the snapshots of broken laws."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self._watch = Watch()
        self._looks: queue.Queue[Look | None] = queue.Queue(maxsize=_BACKLOG)
        self._thread = threading.Thread(target=self._run, name="invariants", daemon=True)
        self._rests_until_s = 0.0
        self._checked = self._skipped = self._broken = 0
        self._took_s = self._longest_s = 0.0
        self._standing = frozenset[Violation]()
        self._last: dict[str, object] | None = None
        self._hour, self._events = 0, 0

    def start(self) -> None:
        """Check in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End, once what was seen is checked, but wait no longer than 2 s for that."""
        with contextlib.suppress(queue.Full):
            self._looks.put_nowait(None)
            self._thread.join(2)

    def see(self, look: Look) -> None:
        """Take a look to be checked. Returns at once; a look that comes too soon after others is skipped."""
        if time.monotonic() < self._rests_until_s or self._looks.full():
            self._skipped += 1
            return
        self._looks.put_nowait(look)

    def status(self) -> Mapping[str, object]:
        """Cycles checked and skipped, laws broken since the start, what a check costs, and what broke last."""
        return {
            "checked": self._checked,
            "skipped": self._skipped,
            "broken": self._broken,
            "mean_ms": round(1000 * self._took_s / self._checked, 2) if self._checked else None,
            "longest_ms": round(1000 * self._longest_s, 2),
            "last": self._last,
        }

    def _run(self) -> None:
        while (look := self._looks.get()) is not None:
            try:
                self.check(look)
            except Exception:
                log.exception("the invariant monitor failed on a cycle; the daemon goes on")

    def check(self, look: Look) -> list[Violation]:
        """Check one look, and tell what is newly broken."""
        began = time.monotonic()
        found = self._watch.look(look)
        took_s = time.monotonic() - began
        self._checked += 1
        self._took_s += took_s
        self._longest_s = max(self._longest_s, took_s)
        if took_s > _FREE_S:
            self._rests_until_s = time.monotonic() + _REST * took_s
        fresh = [violation for violation in found if violation not in self._standing]
        self._standing = frozenset(found)
        self._broken += len(fresh)
        if fresh:
            self._tell(look, fresh)
        return fresh

    def _tell(self, look: Look, fresh: list[Violation]) -> None:
        at_s = float(look.snapshot.now_s)
        saved = self._save(look)
        for violation in fresh:
            log.warning("broken law: %s (%s)", violation, saved)
            self._last = {"at_s": at_s, "law": violation.law, "snapshot": saved}
            if self._may_tell(at_s):
                event = Event(
                    at_s=at_s,
                    source="daemon",
                    kind="invariant",
                    message=str(violation),
                    detail={"law": violation.law, "detail": violation.detail, "snapshot": saved},
                )
                try:
                    self._store.record_event(event)
                except SlurmextError as error:
                    log.warning("not recorded: %s", error)

    def _may_tell(self, at_s: float) -> bool:
        hour = int(at_s // 3600)
        self._events = self._events + 1 if hour == self._hour else 1
        self._hour = hour
        return self._events <= MOST_EVENTS

    def _save(self, look: Look) -> str | None:
        """Write snapshot and plan, root's alone, and remove the oldest of too many; None when that is not possible."""
        from slurmext.config.wire import plan_to_json, snapshot_to_json  # noqa: PLC0415  pydantic takes its time

        stem = self._folder / f"{float(look.snapshot.now_s):014.3f}"
        texts = {".snapshot.json": snapshot_to_json(look.snapshot), ".plan.json": plan_to_json(look.plan)}
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for suffix, text in texts.items():
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                with os.fdopen(os.open(f"{stem}{suffix}", flags, 0o600), "w", encoding="utf-8") as file:
                    file.write(text)
                for old in sorted(self._folder.glob(f"*{suffix}"), key=lambda path: path.name)[:-KEPT_FILES]:
                    old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("the snapshot was not saved in %s: %s", self._folder, error)
            return None
        return f"{stem}.snapshot.json"
