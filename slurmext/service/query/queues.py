"""Queues: their numbers, what goes on in them, and what each may count on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import chain

from slurmext.config.policy import SitePolicy
from slurmext.errors import UsageError
from slurmext.model.slice_state import SliceRecord
from slurmext.model.state import JobKey, JobRow
from slurmext.policy.explain.account import account_lines
from slurmext.service.query.context import Context
from slurmext.service.query.parts import account_with_slices, parts_of
from slurmext.service.query.values import is_within
from slurmext.service.query.viewer import Answer, Question, Viewer
from slurmext.service.slices.counted import by_queue
from slurmext.service.usage import DAY_S, gpu_hours, runs, slice_runs

HOLDING = frozenset({"running", "completing", "suspended"})
"""States of a job that has GPUs."""

_DAYS = 7.0


def listed(context: Context, viewer: Viewer, asked: Question) -> Answer:
    """Every queue, or one and those below it, without names of users for whoever does not see all.

    `sliced` is what of `used` are parts of GPUs.
    """
    found = context.site_policy()
    if found is None:
        return {"version": 0, "queues": []}
    stored, policy = found
    jobs, slices = context.store.jobs(active=True), context.store.slices()
    found_loads, sliced = loads(jobs, parts_of(context, jobs, slices), slices), by_queue(slices)
    written, policy = policy.by_path, policy.including(found_loads)
    if asked.queue is not None and asked.queue not in policy.by_path:
        raise UsageError(f"there is no queue {asked.queue!r}; queues: {', '.join(policy.by_path)}")
    accounts = {row.account for row in jobs if row.user == viewer.user and row.account}
    rows = [
        queue_values(policy, queue.path, found_loads)
        | {"may_use": viewer.sees_all or _may_use(policy, queue.path, viewer, accounts, listed=queue.path in written)}
        for queue in policy.queues
        if asked.queue is None or is_within(queue.path, asked.queue)
    ]
    world = context.world()
    cuts = {queue.path: queue.cut_s for queue in world[0].queues} if world is not None else {}
    for row in rows:
        row["cut_s"] = cuts.get(str(row["path"]))
        row["sliced"] = sliced.get(str(row["path"]), 0)
    if not viewer.sees_all:
        for row in rows:
            row.pop("users", None)
            row.pop("groups", None)
            row["dynamic"] = None if row["dynamic"] is None else {}
            row.pop("acl", None)
    return {"version": stored.version, "default_queue": policy.settings.default_queue, "queues": rows}


def explained(context: Context, viewer: Viewer, asked: Question) -> Answer:
    """A queue's account: fair share at every level, who borrows, lends and starves, and who used how much of late.

    `account` and `lines` (the same in words) are None where no daemon knows the cluster.
    """
    answer = listed(context, viewer, asked)
    path = asked.queue or ""
    world = context.world()
    known = world is not None and any(queue.path == path for queue in world[0].queues)
    account = account_with_slices(context, *world, path) if world is not None and known else None
    since_s = context.now() - _DAYS * DAY_S if asked.since_s is None else asked.since_s
    parent = path.rpartition("/")[0]
    span = context.store, parent or None, since_s, context.now()
    used = gpu_hours(chain(runs(*span), slice_runs(*span)), since_s, context.now())
    return {
        "now_s": context.now(),
        "queues": answer["queues"],
        "account": None if account is None else asdict(account),
        "lines": None if account is None or world is None else account_lines(account, world[0].now_s),
        "since_s": since_s,
        "past_use": [
            {"queue": queue, "days_gpu_h": days, "gpu_h": sum(days)} for queue, days in used.items() if queue != parent
        ],
    }


def _may_use(policy: SitePolicy, path: str, viewer: Viewer, accounts: Collection[str], *, listed: bool) -> bool:
    if not listed and path.rpartition("/")[2] not in {viewer.user, *viewer.groups, *accounts}:
        return False  # it came into being for others
    return any(
        policy.may_use(path, user=viewer.user, account=account, groups=viewer.groups) for account in ("", *accounts)
    )


def queue_values(policy: SitePolicy, path: str, all_loads: Mapping[str, Load]) -> Answer:
    """A queue's numbers and what is going on in it; GPUs of those below it are counted with it.

    `dynamic` is what the queues below it are like that exist as soon as a job is in them, None where there are none.
    """
    guaranteed, load = policy.guaranteed(path), all_loads.get(path, Load())
    acl = policy.acls[path]
    borrowed = round(max(0, load.used - guaranteed), 2)
    if policy.by_path[path].shares_guarantee:
        above = path.rpartition("/")[0]
        borrowed = round(min(load.used, max(0, all_loads.get(above, Load()).used - policy.guaranteed(above))), 2)
    like = policy.dynamic.get(path)
    return {
        **asdict(policy.by_path[path]),
        "dynamic": None if like is None else asdict(like),
        "calendar": [window.when for window in policy.schedule.calendar.windows if window.path == path],
        "timezone": policy.schedule.zone.key,
        "guaranteed": guaranteed,
        "effective_max": policy.effective_max(path),
        "leaf": path not in policy.parents,
        "over_max": policy.over_max[path].value,
        "acl": None
        if acl.open
        else {"users": sorted(acl.users), "groups": sorted(acl.groups), "accounts": sorted(acl.accounts)},
        "used": round(load.used, 2),
        "borrowed": borrowed,
        "running_jobs": load.running_jobs,
        "pending_jobs": load.pending_jobs,
        "pending_gpus": round(load.pending_gpus, 2),
    }


@dataclass(slots=True)
class Load:
    """What goes on in a queue and below it, in jobs and GPUs; slices count as their part of one."""

    used: float = 0
    running_jobs: int = 0
    pending_jobs: int = 0
    pending_gpus: float = 0

    def add(self, row: JobRow, part: float) -> None:
        """Count a job; `part` is what one of slices would have."""
        if row.state == "pending":
            self.pending_jobs += 1
            self.pending_gpus += row.gpus or part
        elif row.state in HOLDING:
            self.running_jobs += 1
            self.used += row.gpus


def loads(jobs: Iterable[JobRow], parts: Mapping[JobKey, float], slices: Iterable[SliceRecord]) -> dict[str, Load]:
    """Load of every queue that has jobs, those above it included. `slices` are those that somebody has or awaits."""
    found: dict[str, Load] = {}
    for row in jobs:
        path = row.queue
        while path:
            found.setdefault(path, Load()).add(row, parts.get(row.job, 0))
            path = path.rpartition("/")[0]
    for path, part in by_queue(slices).items():
        found.setdefault(path, Load()).used += part
    return found
