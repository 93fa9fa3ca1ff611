"""Events on their way to the controller: a file each until it is acknowledged, so that `kill -9` loses none."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING

from slurmext.adapters.tcp.wire import MAX_LINE_BYTES
from slurmext.agent.files import replace_file

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_EVENTS = 10_000


class EventSpool:
    """A queue on disk. (node, boot, seq) names an event for ever; the controller counts each name once."""

    def __init__(self, directory: Path, node: str) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._node = node
        self._boot = str(uuid.uuid4())
        self._started_ns = time.time_ns()
        self._seq = 0
        directory.mkdir(mode=0o700, exist_ok=True)
        for leftover in directory.glob(".*.new"):
            leftover.unlink(missing_ok=True)
        self._names = sorted(path.name for path in directory.glob("*.json"))
        self._unwritten: dict[str, bytes] = {}
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable when something was added."""

    def __len__(self) -> int:
        with self._lock:
            return len(self._names)

    def add(self, event: str, **detail: object) -> None:
        """Queue an event; it is on disk when this returns, unless the disk refused it (then it is kept in memory)."""
        with self._lock:
            content = self._line(event, detail)
            if len(content) > MAX_LINE_BYTES:
                # The controller would refuse it for ever, and nothing behind it would get through.
                log.error("event %s of %d bytes is too long to be told: %.200s", event, len(content), content)
                return
            name = f"{self._started_ns:020d}-{self._seq:010d}.json"
            try:
                replace_file(self._directory / name, content)
            except OSError as error:
                log.warning("event %s is only in memory: %s: %s", event, self._directory, error.strerror)
                self._unwritten[name] = content
            self._names.append(name)
            # The controller also sees starts and ends in Slurm: the oldest are the least worth keeping.
            while len(self._names) > MAX_EVENTS:
                log.warning("more than %d events wait for the controller; dropped the oldest", MAX_EVENTS)
                self._drop(self._names[0])
        os.eventfd_write(self.wake, 1)

    def greeting(self, event: str, **detail: object) -> bytes:
        """An event line that is not kept: one for each connection."""
        with self._lock:
            return self._line(event, detail)

    def head(self) -> tuple[str, bytes] | None:
        """The oldest event's name and line. A file that was damaged is dropped with a log line."""
        with self._lock:
            while self._names:
                name = self._names[0]
                try:
                    content = self._unwritten.get(name) or (self._directory / name).read_bytes()
                    if isinstance(json.loads(content).get("seq"), int):
                        return name, content
                    problem = "no seq"
                except (OSError, ValueError, AttributeError) as error:
                    problem = str(error)
                log.warning("dropped the unreadable event %s: %s", self._directory / name, problem)
                self._drop(name)
            return None

    def acknowledged(self, name: str) -> None:
        """The controller has it."""
        with self._lock:
            if name in self._names:
                self._drop(name)

    def _line(self, event: str, detail: dict[str, object]) -> bytes:
        self._seq += 1
        head = {"seq": self._seq, "boot": self._boot, "node": self._node, "event": event, "at_s": time.time()}
        return json.dumps(head | detail).encode() + b"\n"

    def _drop(self, name: str) -> None:
        self._names.remove(name)
        self._unwritten.pop(name, None)
        (self._directory / name).unlink(missing_ok=True)
