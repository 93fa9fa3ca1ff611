"""Read-only questions about queues, jobs and history, answered as plain JSON values and filtered by who asks."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, cast

from slurmext.config.policy import SitePolicy, parse_policy
from slurmext.errors import SlurmextError, UsageError
from slurmext.model.state import ActionKind, ActionRecord, Event, JobRow, PolicyVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from slurmext.ports import Store

Answer = dict[str, object]
HOLDING = frozenset({"running", "completing", "suspended"})
"""States of a job that has GPUs."""

_MOST_ROWS = 100_000
_CONTROLLER = "controller"


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Who asks. One who does not see everything is shown only what belongs to `user`."""

    user: str
    groups: frozenset[str] = frozenset()
    sees_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, with checked arguments."""

    job: str | None = None
    queue: str | None = None
    state: str | None = None
    user: str | None = None
    kind: str | None = None
    since_s: float | None = None
    version: int | None = None
    ended: bool = False
    limit: int = 1000

    @classmethod
    def of(cls, arguments: Mapping[str, object]) -> Question:
        """From the arguments of a request. Raises UsageError on one that is unknown or of the wrong type."""
        texts: dict[str, str] = {}
        numbers: dict[str, float] = {}
        for key, value in arguments.items():
            if value is None:
                continue
            if key in {"job", "queue", "state", "user", "kind"} and isinstance(value, str):
                texts[key] = value
            elif key in {"since_s", "limit", "ended", "version"} and isinstance(value, int | float):
                numbers[key] = value
            else:
                raise UsageError(
                    f"the argument {key}={value!r} is not understood; the daemon may be of another version"
                )
        return cls(
            **texts,
            since_s=numbers.get("since_s"),
            version=int(numbers["version"]) if "version" in numbers else None,
            ended=bool(numbers.get("ended")),
            limit=max(1, min(int(numbers.get("limit", 1000)), _MOST_ROWS)),
        )


@dataclass(slots=True, kw_only=True)
class Queries:
    """Answers over a store. `live` adds what only the running daemon knows: `status` and `plan`, each JSON values."""

    store: Store
    now: Callable[[], float] = time.time
    live: Mapping[str, Callable[[], Mapping[str, object]]] = field(
        default_factory=dict[str, "Callable[[], Mapping[str, object]]"]
    )
    _parsed: tuple[int, SitePolicy] | None = None

    def answer(self, viewer: Viewer, op: str, arguments: Mapping[str, object]) -> Answer:
        """The answer to one request. Raises UsageError (not understood, not allowed), SlurmextError (not there)."""
        operations: dict[str, Callable[[Viewer, Question], Answer]] = {
            "jobs": self._jobs,
            "job_explain": self._explain,
            "queues": self._queues,
            "history": self._history,
            "checkpoints": self._checkpoints,
            "status": self._status,
            "policy": self._policy,
            "policies": self._policies,
            "plan": self._plan,
        }
        if op not in operations:
            raise UsageError(f"the question {op!r} is unknown; known: {', '.join(operations)}")
        return operations[op](viewer, Question.of(arguments))

    # jobs

    def _jobs(self, viewer: Viewer, asked: Question) -> Answer:
        if not viewer.sees_all and asked.user not in {None, viewer.user}:
            return {"jobs": []}
        rows = self.store.jobs(
            active=not asked.ended,
            user=asked.user if viewer.sees_all else viewer.user,
            queue=asked.queue,
            state=asked.state,
            ended_since_s=asked.since_s,
            limit=asked.limit,
        )
        return {"jobs": [job_values(row) for row in rows]}

    def _explain(self, viewer: Viewer, asked: Question) -> Answer:
        row = self._job(viewer, asked.job or "")
        job_id, since = row.job.job_id, float(row.job.submit_s)
        ledger = [item for item in self.store.preemptions(job_id=job_id) if item.victim == row.job]
        checkpoint = self.store.last_checkpoints([job_id]).get(job_id)
        events = list(self.store.events(job_id=job_id, since_s=since, limit=asked.limit))
        leaving = [action for action in self.store.open_actions() if action.kind is ActionKind.EVICT]
        return {
            "now_s": self.now(),
            "job": job_values(row),
            "leaving_for_it": [_leaving(item, viewer) for item in leaving if item.detail.get("beneficiary") == job_id],
            "being_evicted": [_action_values(item) for item in leaving if item.job == row.job],
            "preemptions": [{**asdict(item), "victim": item.victim.job_id} for item in ledger],
            "checkpoint": None if checkpoint is None or checkpoint.confirmed_s < since else asdict(checkpoint),
            "timeline": [_event_values(event) for event in events],
        }

    def _job(self, viewer: Viewer, job_id: str) -> JobRow:
        mine = [
            row for row in self.store.jobs(job_ids=[job_id], active=False) if viewer.sees_all or row.user == viewer.user
        ]
        if mine:
            return mine[-1]
        tasks = [
            row.job.job_id
            for row in self.store.jobs(active=True, user=None if viewer.sees_all else viewer.user)
            if row.job.job_id.startswith((f"{job_id}_", f"{job_id}+"))
        ]
        if tasks:
            shown = ", ".join(tasks[:5]) + (" …" if len(tasks) > 5 else "")  # noqa: PLR2004
            raise SlurmextError(f"job {job_id} has several parts; ask for one of them: {shown}")
        whose = "" if viewer.sees_all else f" of {viewer.user}"
        raise SlurmextError(
            f"no job {job_id!r}{whose} is known; slurmext looks after jobs that were submitted to a queue"
            " ('slurmext job list --all'), for others ask 'scontrol show job'"
        )

    # queues

    def _site_policy(self) -> tuple[PolicyVersion, SitePolicy] | None:
        stored = self.store.current_policy()
        if stored is None:
            return None
        if self._parsed is None or self._parsed[0] != stored.version:
            self._parsed = stored.version, parse_policy(stored.document, f"policy version {stored.version}")
        return stored, self._parsed[1]

    def _queues(self, viewer: Viewer, asked: Question) -> Answer:
        found = self._site_policy()
        if found is None:
            return {"version": 0, "queues": []}
        stored, policy = found
        if asked.queue is not None and asked.queue not in policy.by_path:
            raise UsageError(f"there is no queue {asked.queue!r}; queues: {', '.join(policy.by_path)}")
        jobs = self.store.jobs(active=True)
        accounts = {row.account for row in jobs if row.user == viewer.user and row.account}
        found_loads = loads(jobs)
        rows = [
            queue_values(policy, queue.path, found_loads.get(queue.path, Load()))
            | {"may_use": viewer.sees_all or _may_use(policy, queue.path, viewer, accounts)}
            for queue in policy.queues
            if asked.queue is None or is_within(queue.path, asked.queue)
        ]
        if not viewer.sees_all:
            for row in rows:
                row.pop("users", None)
                row.pop("acl", None)
        return {"version": stored.version, "default_queue": policy.settings.default_queue, "queues": rows}

    def _policy(self, viewer: Viewer, asked: Question) -> Answer:
        _require_all(viewer)
        if asked.version is None:
            stored = self.store.current_policy()
            if stored is None:
                raise SlurmextError("no policy was applied yet; 'slurmext policy apply FILE' applies the first")
            return asdict(stored)
        versions = self.store.policy_versions(_MOST_ROWS)
        for stored in versions:
            if stored.version == asked.version:
                return asdict(stored)
        newest = versions[0].version if versions else 0
        raise UsageError(f"there is no policy version {asked.version}; the newest is {newest} ('slurmext policy list')")

    def _policies(self, viewer: Viewer, asked: Question) -> Answer:
        _require_all(viewer)
        return {"policies": [asdict(stored) for stored in self.store.policy_versions(asked.limit)]}

    # history

    def _history(self, viewer: Viewer, asked: Question) -> Answer:
        if not viewer.sees_all and asked.job is None:
            ids = self._latest_ids(viewer.user, asked)
        else:
            ids = None if asked.job is None else {self._job(viewer, asked.job).job.job_id}
        events: Iterable[Event]
        if ids is None:
            events = self._newest_events(asked)
        else:
            events = [event for job_id in ids for event in self._newest_events(asked, job_id)]
            events = self._owned(viewer, events)
        kept = [event for event in events if asked.kind is None or is_kind(event.kind, asked.kind)]
        kept.sort(key=lambda event: (event.at_s, event.id or 0))
        return {"events": [_event_values(event) for event in kept[-asked.limit :]]}

    def _latest_ids(self, user: str, asked: Question) -> set[str]:
        """The user's jobs that the newest events can be of: every job has some, so the newest jobs are enough."""
        rows = [
            *self.store.jobs(active=True, user=user, limit=asked.limit),
            *self.store.jobs(active=False, user=user, ended_since_s=asked.since_s, limit=asked.limit),
        ]
        return {row.job.job_id for row in rows}

    def _newest_events(self, asked: Question, job_id: str | None = None) -> list[Event]:
        """The store gives oldest first; walk its pages so that what is kept is the newest."""
        page, events, after = 1000, list[Event](), None
        while True:
            batch = self.store.events(job_id=job_id, since_s=asked.since_s, after_id=after, limit=page)
            events = (
                [*events, *batch][-max(asked.limit, page) :]
                if asked.kind is None
                else [
                    *events,
                    *(event for event in batch if is_kind(event.kind, asked.kind)),
                ][-asked.limit :]
            )
            if len(batch) < page or batch[-1].id is None:
                return events
            after = batch[-1].id

    def _owned(self, viewer: Viewer, events: Sequence[Event]) -> list[Event]:
        """Slurm reuses job ids: an event belongs to the submission of that id that came last before it."""
        if viewer.sees_all:
            return list(events)
        rows = self.store.jobs(job_ids={event.job_id for event in events if event.job_id}, active=False)
        return [event for event in events if event.job_id and owner_at(rows, event.job_id, event.at_s) == viewer.user]

    def _checkpoints(self, viewer: Viewer, asked: Question) -> Answer:
        records = self.store.checkpoints(job_id=asked.job, limit=asked.limit)
        if not viewer.sees_all:
            rows = self.store.jobs(job_ids={record.job_id for record in records}, active=False)
            records = [item for item in records if owner_at(rows, item.job_id, item.confirmed_s) == viewer.user]
        return {"checkpoints": [asdict(record) for record in records]}

    # daemon

    def _status(self, _: Viewer, __: Question) -> Answer:
        lease = self.store.current_lease(_CONTROLLER)
        stored = self.store.current_policy()
        answer: Answer = {
            "now_s": self.now(),
            "lease": None if lease is None else asdict(lease),
            "policy_version": 0 if stored is None else stored.version,
            "open_actions": len(self.store.open_actions()),
        }
        if "status" in self.live:
            answer.update(self.live["status"]())
        return answer

    def _plan(self, viewer: Viewer, _: Question) -> Answer:
        if "plan" not in self.live:
            raise SlurmextError("no plan is at hand; 'slurmext plan' makes one")
        plan = dict(self.live["plan"]())
        if viewer.sees_all:
            return plan
        reasons = cast("Mapping[str, object]", plan.get("reasons", {}))
        mine = {row.job.job_id for row in self.store.jobs(active=True, user=viewer.user)}
        return {"reasons": {job: why for job, why in reasons.items() if job in mine}}


def _require_all(viewer: Viewer) -> None:
    if not viewer.sees_all:
        raise UsageError(
            "the policy's text is shown to root and SlurmUser only; 'slurmext queue list' shows the queues"
        )


def _may_use(policy: SitePolicy, path: str, viewer: Viewer, accounts: Collection[str]) -> bool:
    return any(
        policy.may_use(path, user=viewer.user, account=account, groups=viewer.groups) for account in ("", *accounts)
    )


def is_within(path: str, above: str) -> bool:
    """Whether a queue is `above` or below it."""
    return path == above or path.startswith(f"{above}/")


def is_kind(kind: str, wanted: str) -> bool:
    """`evict` means `evict` and every `evict.…`."""
    return kind == wanted or kind.startswith((f"{wanted}.", f"{wanted}_"))


def owner_at(rows: Iterable[JobRow], job_id: str, at_s: float) -> str | None:
    """User of the submission of `job_id` that was the newest at that time; None when there was none."""
    known = [row for row in rows if row.job.job_id == job_id and row.job.submit_s <= at_s + 1]
    return max(known, key=lambda row: row.job.submit_s).user if known else None


def job_values(row: JobRow) -> Answer:
    """A job as JSON values."""
    values = asdict(row)
    key = values.pop("job")
    return {**key, **values}


def queue_values(policy: SitePolicy, path: str, load: Load) -> Answer:
    """A queue's numbers and what is going on in it; GPUs of those below it are counted with it."""
    guaranteed = policy.guaranteed(path)
    acl = policy.acls[path]
    return {
        **asdict(policy.by_path[path]),
        "guaranteed": guaranteed,
        "effective_max": policy.effective_max(path),
        "leaf": path not in policy.parents,
        "over_max": policy.over_max[path].value,
        "acl": None
        if acl.open
        else {"users": sorted(acl.users), "groups": sorted(acl.groups), "accounts": sorted(acl.accounts)},
        "used": load.used,
        "borrowed": max(0, load.used - guaranteed),
        "running_jobs": load.running_jobs,
        "pending_jobs": load.pending_jobs,
        "pending_gpus": load.pending_gpus,
    }


@dataclass(slots=True)
class Load:
    """What goes on in a queue and below it, in jobs and GPUs."""

    used: int = 0
    running_jobs: int = 0
    pending_jobs: int = 0
    pending_gpus: int = 0

    def add(self, row: JobRow) -> None:
        """Count a job."""
        if row.state == "pending":
            self.pending_jobs += 1
            self.pending_gpus += row.gpus
        elif row.state in HOLDING:
            self.running_jobs += 1
            self.used += row.gpus


def loads(jobs: Iterable[JobRow]) -> dict[str, Load]:
    """Load of every queue that has jobs, those above it included."""
    found: dict[str, Load] = {}
    for row in jobs:
        path = row.queue
        while path:
            found.setdefault(path, Load()).add(row)
            path = path.rpartition("/")[0]
    return found


def _event_values(event: Event) -> Answer:
    return {**asdict(event), "detail": dict(event.detail)}


def _action_values(action: ActionRecord) -> Answer:
    return {**asdict(action), "job": action.job.job_id, "detail": dict(action.detail)}


def _leaving(action: ActionRecord, viewer: Viewer) -> Answer:
    """Whoever waits may know how many GPUs come from where, not whose job it is."""
    values: Answer = {
        "state": action.state.value,
        "since_s": action.changed_s,
        "from_queue": action.detail.get("from_queue"),
        "gpus": action.detail.get("gpus"),
    }
    return {"job": action.job.job_id, **values} if viewer.sees_all else values
