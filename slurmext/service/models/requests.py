"""Takes a request about models to whoever answers it, as far as its caller may."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping

from slurmext.errors import UsageError
from slurmext.model.staged_model import ModelEntry
from slurmext.model.state import Event
from slurmext.ports import Store
from slurmext.service.models.caller import Arguments, Caller
from slurmext.service.models.desk import ModelDesk, NoDesk
from slurmext.service.models.listing import entry_values, file_values, replica_values, replicas_for
from slurmext.service.models.people import gid_of, group_name
from slurmext.service.models.placing import Placing
from slurmext.service.models.quotas import Quotas
from slurmext.service.models.registering import Registering
from slurmext.service.models.uploads import Uploads
from slurmext.service.query.viewer import Answer
from slurmext.staging.errors import NotStaged
from slurmext.staging.manifest import parse_manifest

PART_BYTES = 4 << 20
"""Of a manifest in one answer."""


class ModelRequests:
    """Answers over the registry; `desk` moves models, `now` is Unix seconds. `changed` is called when the next cycle
    should look at models.
    """

    def __init__(
        self,
        *,
        store: Store,
        desk: ModelDesk | None = None,
        quotas: Quotas | None = None,
        now: Callable[[], float] = time.time,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._now, self._changed = now, changed
        self._desk = desk = desk or NoDesk()
        quotas = quotas or Quotas()
        registering = Registering(store.models, Uploads(now), quotas, now, gid_of, desk)
        placing = Placing(store.models, desk, quotas)
        self._operations: Mapping[str, Callable[[Caller, Arguments], Answer]] = {
            "models": self._listed,
            "model_show": self._shown,
            "model_where": self._where,
            "model_manifest": self._manifest,
            "model_upload": registering.upload,
            "model_register": self._noted("registered", registering.register),
            "model_share": self._noted("shared", registering.share),
            "model_remove": self._noted("removed", registering.remove),
            "model_stage": placing.stage,
            "model_pin": self._noted("pinned", placing.pin),
            "model_unpin": self._noted("unpinned", placing.unpin),
            "model_evict": self._noted("evicted", placing.evict),
            "model_verify": placing.verify,
        }

    def knows(self, op: str) -> bool:
        """Whether this is a request about models."""
        return op in self._operations

    def answer(self, caller: Caller, op: str, arguments: Mapping[str, object]) -> Answer:
        """The answer. Raises UsageError (not understood, not allowed), SlurmextError."""
        if op not in self._operations:
            raise UsageError(f"the request {op!r} is unknown; known: {', '.join(self._operations)}")
        return self._operations[op](caller, Arguments(arguments))

    def _listed(self, caller: Caller, given: Arguments) -> Answer:
        entries, replicas = self._store.models.models(), self._store.models.replicas()
        user, name = given.maybe_text("user"), given.maybe_text("model")
        shown = [
            entry
            for entry in entries
            if caller.may_read(entry) and user in {None, entry.owner} and name in {None, entry.key.name}
        ]
        return {"models": [entry_values(entry, caller, replicas, entries, group_name) for entry in shown]}

    def _shown(self, caller: Caller, given: Arguments) -> Answer:
        entry = self._entry(caller, given)
        entries, replicas = self._store.models.models(), self._store.models.replicas(entry.key)
        manifest = parse_manifest(self._raw(entry), fingerprint=entry.fingerprint)
        return {
            **entry_values(entry, caller, replicas, entries, group_name),
            "contents": file_values(manifest),
            "replicas": [replica_values(each, entry, caller) for each in replicas],
        }

    def _where(self, caller: Caller, given: Arguments) -> Answer:
        key = self._entry(caller, given).key if given.maybe_text("model") else None
        found = replicas_for(self._store.models.replicas(key), self._store.models.models(), caller)
        return {"replicas": [replica_values(each, entry, caller) for each, entry in found], "now_s": self._now()}

    def _manifest(self, caller: Caller, given: Arguments) -> Answer:
        entry = self._entry(caller, given)
        raw, at = self._raw(entry), given.number("at")
        data = base64.b64encode(raw[at : at + PART_BYTES]).decode()
        return {"reference": str(entry.key), "fingerprint": entry.fingerprint, "size": len(raw), "data": data}

    def _entry(self, caller: Caller, given: Arguments) -> ModelEntry:
        return self._store.models.resolve(given.text("model"), caller.reads_as, caller.gids)

    def _raw(self, entry: ModelEntry) -> bytes:
        raw = self._store.models.manifest(entry.fingerprint)
        if raw is None:
            raise NotStaged(f"{entry.key} was removed in this moment: 'slurmext model list'")
        return raw

    def _noted(
        self, what: str, operation: Callable[[Caller, Arguments], Answer]
    ) -> Callable[[Caller, Arguments], Answer]:
        """Have the desk look again at once, and note what changed, for root's `slurmext history`."""

        def noted(caller: Caller, given: Arguments) -> Answer:
            answer = operation(caller, given)
            if not answer.get("dry_run"):
                self._desk.changed()
                self._changed()
                message = f"{caller.user} {what} {answer.get('reference')}"
                happened = Event(at_s=self._now(), source="daemon", kind=f"model.{what}", message=message)
                self._store.record_event(happened)
            return answer

        return noted
