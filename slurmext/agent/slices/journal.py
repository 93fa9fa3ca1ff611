"""The book of slices: in memory for asking, in `slices.jsonl` for the agent after this one.

A line is the whole new record of one thing, so replaying is taking the last line of each. Lines are appended in one
write and not synced: what a power cut may lose it also takes from the GPUs, since no instance outlives it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from cachetools import FIFOCache

from slurmext.agent.files import replace_file
from slurmext.agent.slices.records import Made, Reservation, ShareMade, Use
from slurmext.errors import SlurmextError
from slurmext.model.slicing import GpuUse

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

COMPACT_LINES = 2048
MAX_DONE = 2000
"""Reservations that ended: an order that comes again for one of them does not bring it back."""


Thing = Reservation | Made | ShareMade | Use
_KINDS: dict[type, str] = {Reservation: "reservation", Made: "made", ShareMade: "share", Use: "use"}


class JournalError(SlurmextError):
    """The journal of slices cannot be written, so nothing is made: a crash could not be cleared up. Free the disk."""


class Book:
    """Threads may call any method; each change is in the journal before the method returns.

    `keep` raises JournalError and changes nothing when the journal cannot be written; dropping is only logged then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._reservations: dict[str, Reservation] = {}
        self._made: dict[tuple[str, int], Made] = {}
        self._shares: dict[str, ShareMade] = {}
        self._uses: dict[str, Use] = {}
        self._done = FIFOCache[str, None](MAX_DONE)
        self.boot = ""
        """Which boot of the node the journal is of; "" when nobody wrote that down yet."""
        self._lines = 0
        self._torn = True  # the one before may have been killed in the middle of a line
        self._replay()
        self._compact()

    # asking

    def reservation(self, name: str) -> Reservation | None:
        """The reservation, if it has not ended."""
        with self._lock:
            return self._reservations.get(name)

    def reservations(self) -> list[Reservation]:
        """Those that have not ended, oldest first."""
        with self._lock:
            return list(self._reservations.values())

    def of_job(self, job_id: int) -> list[Reservation]:
        """The job's, oldest first: it has several when it was requeued before the first was cleared away."""
        return [each for each in self.reservations() if each.job_id == job_id]

    def made(self, *, gpu: str | None = None, reservation: str | None = None) -> list[Made]:
        """Instances that we made, by GPU and start."""
        with self._lock:
            found = [
                each
                for each in self._made.values()
                if gpu in {None, each.gpu} and reservation in {None, each.reservation}
            ]
        return sorted(found, key=lambda each: each.place)

    def at(self, gpu: str, start: int) -> Made | None:
        """What we made at that place."""
        with self._lock:
            return self._made.get((gpu, start))

    def shares(self, *, gpu: str | None = None, reservation: str | None = None) -> list[ShareMade]:
        """MPS shares that we made."""
        with self._lock:
            return [
                each
                for each in self._shares.values()
                if gpu in {None, each.gpu} and reservation in {None, each.reservation}
            ]

    def use(self, gpu: str) -> Use:
        """What a GPU is for; whole until something else is said."""
        with self._lock:
            return self._uses.get(gpu) or Use(gpu=gpu, use=GpuUse.WHOLE)

    def uses(self) -> list[Use]:
        """GPUs of which something was said."""
        with self._lock:
            return list(self._uses.values())

    def ended(self, name: str) -> bool:
        """Whether the reservation was here and has ended."""
        with self._lock:
            return name in self._done

    # changing

    def keep(self, thing: Thing) -> None:
        """Write down a thing's new state. Raises JournalError."""
        with self._lock:
            self._write({_KINDS[type(thing)]: thing.record()})
            self._take(thing)

    def leave(self, thing: Thing) -> None:
        """Like `keep`, for a thing on its way out: that must not wait for the disk."""
        with self._lock:
            self._note({_KINDS[type(thing)]: thing.record()})
            self._take(thing)

    def set_boot(self, boot: str) -> None:
        """The node was booted anew."""
        with self._lock:
            self.boot = boot
            self._note({"boot": boot})

    def drop_made(self, made: Made) -> None:
        """It is gone."""
        with self._lock:
            self._made.pop(made.place, None)
            self._note({"gone": list(made.place)})

    def drop_share(self, share: ShareMade) -> None:
        """It is gone."""
        with self._lock:
            self._shares.pop(share.key, None)
            self._note({"gone_share": share.key})

    def end(self, reservation: Reservation) -> None:
        """Nothing of it is left."""
        with self._lock:
            self._finish(reservation.reservation)
            self._note({"done": reservation.reservation})

    def _take(self, thing: Thing) -> None:
        if isinstance(thing, Reservation):
            self._reservations[thing.reservation] = thing
        elif isinstance(thing, Made):
            self._made[thing.place] = thing
        elif isinstance(thing, ShareMade):
            self._shares[thing.key] = thing
        else:
            self._uses[thing.gpu] = thing

    def _finish(self, name: str) -> None:
        self._reservations.pop(name, None)
        self._done[name] = None

    # the file

    def _note(self, entry: dict[str, object]) -> None:
        try:
            self._write(entry)
        except JournalError as error:
            log.warning("%s", error)  # after a restart it is found to be gone

    def _write(self, entry: dict[str, object]) -> None:
        line = ("\n" if self._torn else "") + json.dumps(entry) + "\n"
        try:
            self._append(line.encode())
        except OSError as error:
            self._torn = True
            raise JournalError(f"{self._path}: {error.strerror}: slices cannot be written down") from error
        self._torn = False
        self._lines += 1
        if self._lines > COMPACT_LINES + 4 * (len(self._reservations) + len(self._made) + len(self._shares)):
            self._compact()

    def _append(self, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            if os.write(descriptor, content) != len(content):
                raise OSError(28, "No space left on device")
        finally:
            os.close(descriptor)

    def _compact(self) -> None:
        entries: list[dict[str, object]] = [{"boot": self.boot}] if self.boot else []
        entries += [{"use": each.record()} for each in self._uses.values()]
        entries += [{"reservation": each.record()} for each in self._reservations.values()]
        entries += [{"made": each.record()} for each in self._made.values()]
        entries += [{"share": each.record()} for each in self._shares.values()]
        entries += [{"done": name} for name in self._done]
        try:
            replace_file(self._path, "".join(f"{json.dumps(entry)}\n" for entry in entries).encode())
        except OSError as error:
            log.warning("%s cannot be compacted: %s", self._path, error.strerror)
            return
        self._lines, self._torn = len(entries), False

    def _replay(self) -> None:
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        for line in text.splitlines():
            if not line:
                continue
            try:
                self._read(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                log.warning("%s: skipped the damaged line %.60r", self._path, line)

    def _read(self, entry: dict[str, Any]) -> None:
        for kind, value in entry.items():
            match kind:
                case "reservation":
                    self._take(Reservation.of(value))
                case "made":
                    self._take(Made.of(value))
                case "share":
                    self._take(ShareMade.of(value))
                case "gone_share":
                    self._shares.pop(str(value), None)
                case "use":
                    self._take(Use.of(value))
                case "gone":
                    self._made.pop((str(value[0]), int(value[1])), None)
                case "boot":
                    self.boot = str(value)
                case "done":
                    self._finish(str(value))
                case _:
                    pass
