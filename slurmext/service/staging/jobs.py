"""What jobs asked for with --preload, as models of the registry: the same ones for all of a job's life."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from cachetools import FIFOCache

from slurmext.model.staged_model import ModelEntry, resolve
from slurmext.ports import Clock, ModelRegistry
from slurmext.service.models.people import Caller, caller_of
from slurmext.staging.errors import StagingError
from slurmext.staging.preload import Preload

_REMEMBERED = 20_000
_FRESH_S = 5.0
"""So long an answer of the registry stands: cycles ask again and again."""
_ENTRIES_S = 1.0
"""So long one reading of the registry serves all jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One model of a job: what the reference means, or why it means nothing to the job's user."""

    reference: str
    entry: ModelEntry | None = None
    why: str = ""

    def preload(self, refused: str = "") -> Preload:
        """As agents are told; `refused` says why it does not come."""
        if self.entry is None:
            return Preload(reference=self.reference, why=self.why)
        return Preload(
            reference=self.reference, key=self.entry.key, fingerprint=self.entry.fingerprint,
            storage=self.entry.storage, why=refused,
        )  # fmt: skip


@dataclass(slots=True, eq=False)
class _Lately:
    """What was found out in the last moment, for all jobs that a cycle sees: users, and what means nothing to them."""

    at_s: float = 0.0
    callers: dict[int, Caller] = field(default_factory=dict[int, Caller])
    unknown: dict[tuple[int, str], str] = field(default_factory=dict[tuple[int, str], str])


class JobModels:
    """From any thread. Raises StoreUnavailable."""

    def __init__(self, registry: ModelRegistry, clock: Clock) -> None:
        self._registry, self._clock = registry, clock
        self._lock = threading.Lock()
        self._known = FIFOCache[tuple[str, int, str], ModelEntry](_REMEMBERED)
        self._answers = FIFOCache[tuple[str, int, str], tuple[float, Wanted]](_REMEMBERED)
        self._entries: tuple[float, Sequence[ModelEntry]] = 0.0, ()
        self._lately = _Lately()

    def of(self, job_id: str, uid: int, references: Sequence[str]) -> tuple[Wanted, ...]:
        """The job's models. A reference without a revision means what it meant when the job was first seen, so that
        all nodes of a job have the same.
        """
        return tuple(self._one(job_id, uid, reference) for reference in references)

    def forget_answers(self) -> None:
        """The registry changed: ask it anew."""
        with self._lock:
            self._answers.clear()
            self._entries = 0.0, ()
            self._lately = _Lately()

    def _one(self, job_id: str, uid: int, reference: str) -> Wanted:
        place, now_s = (job_id, uid, reference), self._clock.now()
        with self._lock:
            at_s, answer = self._answers.get(place, (0.0, None))
        if answer is not None and 0 <= now_s - at_s < _FRESH_S:
            return answer
        answer = self._asked(place)
        with self._lock:
            self._answers[place] = now_s, answer
        return answer

    def _asked(self, place: tuple[str, int, str]) -> Wanted:
        _, uid, reference = place
        with self._lock:
            known = self._known.get(place)
        if known is not None:
            # Permissions may have changed since, or the model may be gone.
            reference = str(known.key)
        lately = self._now()
        if why := lately.unknown.get((uid, reference)):
            return Wanted(reference=place[2], why=why)
        if uid not in lately.callers:
            lately.callers[uid] = caller_of(uid)
        try:
            entry = self._resolved(reference, lately.callers[uid])
        except StagingError as error:
            lately.unknown[uid, reference] = str(error)
            return Wanted(reference=place[2], why=str(error))
        with self._lock:
            self._known[place] = entry
        return Wanted(reference=place[2], entry=entry)

    def _resolved(self, reference: str, caller: Caller) -> ModelEntry:
        try:
            return resolve(self._registered(), reference, caller.reads_as, caller.gids)
        except StagingError:
            # It may have been registered a moment ago.
            return resolve(self._registered(afresh=True), reference, caller.reads_as, caller.gids)

    def _now(self) -> _Lately:
        now_s = self._clock.now()
        with self._lock:
            if not 0 <= now_s - self._lately.at_s < _ENTRIES_S:
                self._lately = _Lately(at_s=now_s)
            return self._lately

    def _registered(self, *, afresh: bool = False) -> Sequence[ModelEntry]:
        """All models. One reading serves the jobs of a cycle, which may be thousands."""
        now_s = self._clock.now()
        with self._lock:
            at_s, entries = self._entries
        if afresh or not 0 <= now_s - at_s < _ENTRIES_S:
            entries = self._registry.models()
            with self._lock:
                self._entries = now_s, entries
        return entries
