"""MemoryStore: the state store in a dictionary, for tests. Passes the same contract tests as SqlStore."""

from __future__ import annotations

import copy
import json
import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from slurmext.errors import SlurmextError, StoreConflict, StoreUnavailable
from slurmext.model.state import (
    ActionRecord,
    ActionState,
    Event,
    Intent,
    JobKey,
    JobRow,
    Lease,
    PolicyVersion,
    StoredFence,
)
from slurmext.testing.memory_idle import MemoryIdle
from slurmext.testing.memory_ledger import MemoryLedger
from slurmext.testing.memory_models import MemoryModels
from slurmext.testing.memory_slices import MemorySlices
from slurmext.testing.memory_upkeep import MemoryUpkeep

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from slurmext.model.queue import Queue

_NOT_CARRIED_OUT = {ActionState.INTENT, ActionState.REFUSED, ActionState.FAILED, ActionState.ABANDONED}


class MemoryStore(MemorySlices, MemoryUpkeep, MemoryLedger, MemoryIdle):
    """Implements `ports.Store`. Set `down` to make every call raise StoreUnavailable, as a lost database would."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self._lock = threading.RLock()
        self._leases: dict[str, Lease] = {}
        self._policies: list[PolicyVersion] = []
        self._jobs: dict[JobKey, JobRow] = {}
        self._plans: dict[int, tuple[float, Mapping[str, object]]] = {}
        self._actions: dict[int, ActionRecord] = {}
        self._fences: dict[JobKey, StoredFence] = {}
        self._events: list[Event] = []
        self._dedup: set[str] = set()
        self._last_id: Counter[str] = Counter()
        self.models = MemoryModels(self._require_up)

    # lease
    def acquire_lease(self, name: str, holder: str, ttl_s: float, now_s: float) -> Lease | None:
        with self._lock:
            self._require_up()
            held = self._leases.get(name)
            if held is None:
                token = 1
            elif held.holder == holder:
                token = held.token
            elif held.expires_s <= now_s:
                token = held.token + 1
            else:
                return None
            self._leases[name] = Lease(name=name, holder=holder, token=token, expires_s=now_s + ttl_s)
            return self._leases[name]

    def release_lease(self, lease: Lease) -> None:
        with self._lock:
            self._require_up()
            held = self._leases.get(lease.name)
            if held is not None and (held.holder, held.token) == (lease.holder, lease.token):
                self._leases[lease.name] = replace(held, holder="", expires_s=0)

    def current_lease(self, name: str) -> Lease | None:
        with self._lock:
            self._require_up()
            held = self._leases.get(name)
            return held if held is not None and held.holder else None

    # policy
    def apply_policy(
        self, document: str, applied_by: str, now_s: float, *, queues: Sequence[Queue] | None = None
    ) -> PolicyVersion:
        del queues  # for SQL reports only
        with self._lock:
            self._require_up()
            version = PolicyVersion(
                version=len(self._policies) + 1, document=document, applied_by=applied_by, applied_s=now_s
            )
            self._policies.append(version)
            return version

    def current_policy(self) -> PolicyVersion | None:
        return next(iter(self.policy_versions(1)), None)

    def policy_versions(self, limit: int = 20) -> list[PolicyVersion]:
        with self._lock:
            self._require_up()
            return self._policies[::-1][:limit]

    # jobs
    def save_jobs(self, token: int, rows: Iterable[JobRow]) -> None:
        with self._lock:
            self._require_controller(token)
            for row in list(rows):
                stored = self._jobs.get(row.job)
                if stored is None or replace(stored, updated_s=row.updated_s) != row:
                    self._jobs[row.job] = row

    def jobs(
        self,
        *,
        job_ids: Collection[str] | None = None,
        active: bool = True,
        user: str | None = None,
        queue: str | None = None,
        state: str | None = None,
        ended_since_s: float | None = None,
        limit: int | None = None,
    ) -> list[JobRow]:
        with self._lock:
            self._require_up()
            found = [
                row
                for key, row in self._jobs.items()
                if (job_ids is None or key.job_id in job_ids)
                and row.is_asked_for(active=active, user=user, queue=queue, state=state, ended_since_s=ended_since_s)
            ]
        found.sort(key=lambda row: (row.job.submit_s, row.job.job_id))
        return found if limit is None else found[max(0, len(found) - limit) :]

    # plans and actions
    def record_plan(
        self, token: int, now_s: float, summary: Mapping[str, object], intents: Sequence[Intent]
    ) -> list[ActionRecord]:
        with self._lock:
            self._require_controller(token)
            plan_id = self._next("plan")
            self._plans[plan_id] = (now_s, _stored(summary))
            records = [
                ActionRecord(
                    id=self._next("action"),
                    plan_id=plan_id,
                    kind=intent.kind,
                    job=intent.job,
                    reason=intent.reason,
                    message=intent.message,
                    detail=_stored(intent.detail),
                    state=ActionState.INTENT,
                    created_s=now_s,
                    changed_s=now_s,
                )
                for intent in intents
            ]
            self._actions.update((record.id, record) for record in records)
            return records

    def advance(
        self,
        token: int,
        action_id: int,
        state: ActionState,
        now_s: float,
        *,
        message: str = "",
        detail: Mapping[str, object] | None = None,
    ) -> None:
        with self._lock:
            self._require_controller(token)
            action = self._actions.get(action_id)
            if action is None:
                raise SlurmextError(f"action {action_id} is not in the state database; it may have been pruned.")
            if action.state.final and state is not action.state:
                raise SlurmextError(f"action {action_id} is already {action.state}; it cannot become {state}.")
            merged = {**action.detail, **_stored(detail or {})}
            changed = replace(action, message=message or action.message, detail=merged)
            if state is not action.state:
                changed = replace(changed, state=state, changed_s=now_s)
                self.record_event(
                    Event(
                        at_s=now_s,
                        source="daemon",
                        kind=f"{action.kind}.{state}",
                        job_id=action.job.job_id,
                        message=changed.message,
                        detail={**merged, "action": action_id, "plan": action.plan_id, "reason": action.reason},
                    )
                )
            self._actions[action_id] = changed

    def open_actions(self) -> list[ActionRecord]:
        with self._lock:
            self._require_up()
            return [action for action in self._actions.values() if not action.state.final]

    def actions(
        self, *, job_id: str | None = None, since_s: float | None = None, limit: int = 100
    ) -> list[ActionRecord]:
        with self._lock:
            self._require_up()
            found = [
                action
                for action in self._actions.values()
                if job_id in {None, action.job.job_id} and (since_s is None or action.created_s >= since_s)
            ]
        return found[::-1][:limit]

    def count_actions(self, *, action: str, since_s: float) -> int:
        with self._lock:
            self._require_up()
            return sum(
                one.kind == action and one.changed_s >= since_s and one.state not in _NOT_CARRIED_OUT
                for one in self._actions.values()
            )

    # fences
    def replace_fences(self, token: int, fences: Sequence[StoredFence]) -> None:
        wanted = {fence.beneficiary: copy.deepcopy(fence) for fence in fences}
        if len(wanted) < len(fences):
            raise SlurmextError("a job was given two fences; merge their placements into one.")
        with self._lock:
            self._require_controller(token)
            self._fences = wanted

    def fences(self) -> list[StoredFence]:
        with self._lock:
            self._require_up()
            return sorted(self._fences.values(), key=lambda fence: fence.created_s)

    # events
    def record_event(self, event: Event, *, dedup: str | None = None) -> bool:
        with self._lock:
            self._require_up()
            if dedup is not None:
                if dedup in self._dedup:
                    return False
                self._dedup.add(dedup)
            self._events.append(replace(event, id=self._next("event"), detail=_stored(event.detail)))
            return True

    def events(
        self,
        *,
        job_id: str | None = None,
        since_s: float | None = None,
        after_id: int | None = None,
        limit: int = 200,
    ) -> list[Event]:
        with self._lock:
            self._require_up()
            found = [
                event
                for event in self._events
                if job_id in {None, event.job_id}
                and (since_s is None or event.at_s >= since_s)
                and (after_id is None or (event.id or 0) > after_id)
            ]
        if after_id is not None:
            return found[:limit]
        found.sort(key=lambda event: event.at_s)
        return found[-limit:] if limit else []

    def prune(self, token: int, before_s: float) -> int:
        with self._lock:
            self._require_controller(token)
            busy = {action.plan_id for action in self._actions.values() if not action.state.final}
            plans = {n for n, (created_s, _) in self._plans.items() if created_s < before_s and n not in busy}
            alive = {key.job_id for key, row in self._jobs.items() if row.end_s is None}
            events = [event for event in self._events if event.at_s >= before_s]
            checkpoints = [c for c in self._checkpoints if c.confirmed_s >= before_s or c.job_id in alive]
            ended = [key for key, row in self._jobs.items() if row.end_s is not None and row.end_s < before_s]
            gone = len(plans) + len(self._events) - len(events) + len(self._checkpoints) - len(checkpoints) + len(ended)
            old = [k for k, record in self._activity.items() if record.at_s < before_s and record.job_id not in alive]
            over = [job for job, found in self._extensions.items() if found.keep_until_s < before_s]
            for key in old:
                del self._activity[key]
            for job in over:
                del self._extensions[job]
            gone += len(old) + len(over) + self._prune_slices(before_s)
            self._events, self._checkpoints = events, checkpoints
            for key in ended:
                del self._jobs[key]
            self._actions = {n: action for n, action in self._actions.items() if action.plan_id not in plans}
            self._plans = {n: plan for n, plan in self._plans.items() if n not in plans}
            return gone

    def close(self) -> None:
        """Nothing to let go of."""

    def _require_up(self) -> None:
        if self.down:
            raise StoreUnavailable("state database memory: switched off by a test.")

    def _require_controller(self, token: int) -> None:
        self._require_up()
        lease = self._leases.get("controller")
        if lease is None or lease.token != token:
            raise StoreConflict(
                f"controller token {token} is stale: the lease's newest is {lease.token if lease else None}."
            )

    def _next(self, what: str) -> int:
        self._last_id[what] += 1
        return self._last_id[what]


def _stored(detail: Mapping[str, object]) -> dict[str, object]:
    """As it comes back from a database: a copy, with JSON's types."""
    return json.loads(json.dumps(dict(detail), default=str))
