"""A job's models on this node: what it asked for, waiting for them in its prolog, and what its tasks are told."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cachetools import FIFOCache

from slurmext.adapters.tcp.model_orders import PreloadJob
from slurmext.agent.staging.catalogue import gids_of
from slurmext.staging.names import ModelKey, parse_reference
from slurmext.staging.places import FALLBACK, ROOTS, fallback_text
from slurmext.staging.preload import Preload, references_in
from slurmext.staging.store.tier import TierKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from slurmext.agent.spool import EventSpool
    from slurmext.agent.staging.catalogue import KnownModels
    from slurmext.agent.staging.engine import StagingEngine
    from slurmext.agent.staging.jobfiles import JobFiles
    from slurmext.staging.store.staged import StagedModel

log = logging.getLogger(__name__)

ANSWER_S: Final = 10.0
"""So long slurmextd has to say what a job's models are; a job it has never heard of starts without them."""
_LOOK_S: Final = 0.25
_REMEMBERED: Final = 4096


def holder_of(job_id: int) -> str:
    """Who pins a job's models."""
    return f"job-{job_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one model of a job. `staged`: its directory here, all of it when `complete`."""

    model: Preload
    staged: Path | None = None
    complete: bool = False
    why: str = ""


class Preloads:
    """What jobs asked for. `ask` has slurmextd told that a job here wants models; it answers with `told`."""

    def __init__(
        self,
        *,
        node: str,
        engine: Callable[[], StagingEngine],
        files: JobFiles,
        events: EventSpool,
        connected: Callable[[], bool],
        catalogue: KnownModels,
    ) -> None:
        self._catalogue = catalogue
        self._node, self._engine, self._files, self._events = node, engine, files, events
        self._connected = connected
        self._news = threading.Condition()
        self._told = FIFOCache[int, PreloadJob](_REMEMBERED)
        self._ended = FIFOCache[int, None](_REMEMBERED)

    def told(self, order: PreloadJob) -> None:
        """Slurmextd says what a job's models are."""
        with self._news:
            self._told[order.job_id] = order
            self._news.notify_all()

    def prepare(self, job_id: int, uid: int, text: str, wait_s: float) -> list[Outcome]:
        """Wait until the job's models are here and pinned, for at most `wait_s`; its tasks are told either way."""
        deadline_s = time.monotonic() + wait_s
        references = references_in(text)
        with self._news:
            self._ended.pop(job_id, None)
        models = self._known(job_id, uid, references)
        self._tell_tasks(job_id, uid, [Outcome(model=model, why="its agent stopped") for model in models])
        if not self._all_here(job_id, models):
            self._events.add("preload_wanted", job_id=job_id, uid=uid, models=list(references))
            models = self._answered(job_id, uid, references, min(deadline_s, time.monotonic() + ANSWER_S))
            self._tell_tasks(job_id, uid, [Outcome(model=model, why="its agent stopped") for model in models])
        found = [self._await(job_id, model, deadline_s) for model in models]
        with self._news:
            if job_id in self._ended:
                self._unpin(job_id)
                return found
        self._tell_tasks(job_id, uid, found)
        return found

    def end(self, job_id: int) -> None:
        """The job has left: its models may go when room is needed."""
        with self._news:
            self._ended[job_id] = None
            self._told.pop(job_id, None)
            self._news.notify_all()
        self._unpin(job_id)

    def _unpin(self, job_id: int) -> None:
        engine, holder = self._engine(), holder_of(job_id)
        for one in engine.progress():
            if holder in one.pins:
                engine.unpin(one.key, holder, one.tier)

    def _known(self, job_id: int, uid: int, references: Sequence[str]) -> tuple[Preload, ...]:
        """What slurmextd said of the job so far; what it did not, is looked for among what is here."""
        with self._news:
            order = self._told.get(job_id)
        said = {} if order is None else {each.reference: each for each in order.models}
        known = (said.get(reference) or self._guess(uid, reference) for reference in references)
        return tuple(replace(each, why="") if each.key else each for each in known)

    def _guess(self, uid: int, reference: str) -> Preload:
        """The model as slurmextd last said, or as far as it is here and the user may read it: it may be away now."""
        if (known := self._catalogue.find(reference, uid)) is not None:
            return Preload(reference=reference, key=known.key, fingerprint=known.fingerprint, storage=known.storage)
        name, revision = parse_reference(reference)
        here = [
            one
            for one in self._engine().progress()
            if one.key.name == name and revision in {None, one.key.revision} and one.ready_bytes == one.size
            and (staged := self._engine().find(one.key, one.tier)) and staged.access.lets_in(uid, gids_of(uid))
        ]  # fmt: skip
        if len(here) == 1:
            return Preload(reference=reference, key=here[0].key, fingerprint=here[0].fingerprint)
        return Preload(reference=reference, why="slurmextd did not say what it is")

    def _answered(self, job_id: int, uid: int, references: Sequence[str], until_s: float) -> tuple[Preload, ...]:
        with self._news:
            while job_id not in self._told and job_id not in self._ended and self._connected():
                left_s = until_s - time.monotonic()
                if left_s <= 0:
                    break
                self._news.wait(min(left_s, _LOOK_S))
        return self._known(job_id, uid, references)

    def _all_here(self, job_id: int, models: Sequence[Preload]) -> bool:
        """Whether nothing has to be brought; what is here is pinned at once."""
        return bool(models) and all(
            model.key is not None and (staged := self._find(model)) is not None and staged.complete
            and self._pin(job_id, model.key)
            for model in models
        )  # fmt: skip

    def _find(self, model: Preload) -> StagedModel | None:
        if model.key is None:
            return None
        staged = self._engine().find(model.key, TierKind.MEMORY)
        return staged if staged is not None and staged.fingerprint == model.fingerprint else None

    def _pin(self, job_id: int, key: ModelKey) -> bool:
        return self._engine().pin(key, holder_of(job_id))

    def _await(self, job_id: int, model: Preload, deadline_s: float) -> Outcome:
        if model.key is None:
            return Outcome(model=model, why=model.why or "unknown")
        pinned, failed_s = False, 0.0
        while True:
            staged = self._find(model)
            if staged is not None and not pinned:
                pinned = self._pin(job_id, model.key)
            if staged is not None and staged.complete and pinned:
                return Outcome(model=model, staged=staged.directory, complete=True)
            if refused := self._refused(job_id, model):
                return Outcome(model=model, staged=staged and staged.directory, why=refused)
            why = self._engine().failure(model.key)
            if why:
                # Slurmextd may know another source, and tells it within a moment.
                failed_s = failed_s or time.monotonic()
                if time.monotonic() - failed_s > 2 or not self._connected():  # noqa: PLR2004
                    return Outcome(model=model, staged=staged and staged.directory, why=why)
            else:
                failed_s = 0.0
            left_s = deadline_s - time.monotonic()
            with self._news:
                if left_s <= 0 or job_id in self._ended:
                    return Outcome(model=model, staged=staged and staged.directory, why="it took too long")
            if staged is None:
                time.sleep(min(left_s, 0.05))
            else:
                staged.wait(min(left_s, _LOOK_S))

    def _refused(self, job_id: int, model: Preload) -> str:
        """Why slurmextd says that the model does not come; empty while it may."""
        with self._news:
            order = self._told.get(job_id)
        said = () if order is None else order.models
        return next((each.why for each in said if each.reference == model.reference and each.key), "")

    def _tell_tasks(self, job_id: int, uid: int, outcomes: Sequence[Outcome]) -> None:
        directories = [str(each.staged) for each in outcomes if each.staged is not None]
        # A step's tasks have the environment of the job's first node: what that was told does not hold here.
        lines = [f"export {ROOTS}={':'.join(directories)}" if directories else f"unset {ROOTS}"]
        missed = [each for each in outcomes if not each.complete]
        stored = {each.model.key: Path(each.model.storage) for each in missed if each.model.key and each.model.storage}
        lines.append(f"export {FALLBACK}={fallback_text(stored)}" if stored else f"unset {FALLBACK}")
        for each in missed:
            name = each.model.key or each.model.reference
            where = f"it is read from {each.model.storage}" if each.model.storage else "load it by its path"
            lines.append(f"print slurmext: {name} is not staged on {self._node} ({each.why}): {where}")
        self._files.write(job_id, uid, lines)
