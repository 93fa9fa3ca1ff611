"""What became smaller, and since when: the numbers of the policies in force one after the other, calendars included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from slurmext.config.calendar import DAY_S
from slurmext.config.policy import SitePolicy
from slurmext.config.quota import ANY_NAME
from slurmext.model.queue import Queue

BACK_S = 8 * DAY_S
"""So far back is looked: whoever had to leave has left by then, also where a calendar's cut lasts for a week."""
Queues = Mapping[str, Queue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrinks:
    """Since when a queue's max is what it is or less (`cuts`), and since when queues are not there (`removed`).

    Unix seconds by path; `parent/*` stands for children that exist as soon as a job is in them.
    """

    cuts: Mapping[str, float]
    removed: Mapping[str, float]


def shrinks(versions: Sequence[tuple[float, SitePolicy]], now_s: float) -> Shrinks:
    """`versions` are the policies with the time each was applied, the oldest first."""
    periods = list(_periods(versions, now_s))
    if not periods:
        return Shrinks(cuts={}, removed={})
    now = periods[-1][1]
    cuts = {path: since for path, queue in now.items() if (since := _since(periods, queue)) is not None}
    removed: dict[str, float] = {}
    for (_, before), (at_s, after) in pairwise(periods):
        removed |= dict.fromkeys(before.keys() - after.keys(), at_s)
        for path in after.keys() & removed.keys():
            del removed[path]
    return Shrinks(cuts=cuts, removed=removed)


def _periods(versions: Sequence[tuple[float, SitePolicy]], now_s: float) -> Iterator[tuple[float, Queues]]:
    """The queues from each time on, the last in force now."""
    ends = [applied_s for applied_s, _ in versions[1:]] + [inf]
    for (applied_s, policy), end_s in zip(versions, ends, strict=True):
        from_s, until_s = max(applied_s, now_s - BACK_S), min(end_s, now_s)
        if from_s > until_s or end_s <= from_s:
            continue
        # `changes` leaves out what begins at its end, and that may be now.
        for at_s, found in policy.schedule.periods(from_s, until_s + (1e-3 if end_s > now_s else 0)):
            likes = {f"{path}/{ANY_NAME}": like for path, like in found.dynamic.items()}
            yield at_s, {queue.path: queue for queue in found.queues} | likes


def _since(periods: Sequence[tuple[float, Queues]], queue: Queue) -> float | None:
    """The end of the last time at which a limit of the queue was larger than it is now; None when there is none."""
    most = _limits(queue)
    if all(limit == inf for limit in most.values()):
        return None
    later = 0.0
    for at_s, queues in reversed(periods):
        before = queues.get(queue.path)
        if before is not None and before is not queue:
            limits = _limits(before)
            if any(limits.get(key, inf) > limit for key, limit in most.items()):
                return later
        later = at_s
    return None


def _limits(queue: Queue) -> dict[str | None, float]:
    types = {gpu_type: inf if quota.max is None else quota.max for gpu_type, quota in queue.by_type.items()}
    return {None: inf if queue.max is None else queue.max, **types}
