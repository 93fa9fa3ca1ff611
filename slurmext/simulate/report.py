"""What a simulation means: utilisation, waits, evictions, lost work, kept guarantees, fairness."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot
from slurmext.policy.share import fair_shares
from slurmext.policy.tree import queue_tree
from slurmext.simulate.history import History
from slurmext.simulate.track import Outcome, Track

MOST_BUCKETS = 500
"""A series has at most so many points."""

_MINUTE_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReport:
    """One queue. Waits in seconds, from submission to the first start (`wait_gpu_mean_s`: weighted by the jobs' GPUs);
    GPUs are means over the window.

    `borrowed_gpus` is what it used beyond its guarantee, `of_fair_share` what it used of its fair share while it
    wanted any. `longest_guaranteed_s` is the longest that demand within its guarantee waited, `breaches` how often
    that was longer than promised; `longest_reclaim_s` the longest that GPUs were being taken back for one of its jobs.
    """

    queue: str
    guaranteed: int
    jobs: int
    gpu_h: float
    used_gpus: float
    borrowed_gpus: float
    of_fair_share: float
    wait_mean_s: float
    wait_p95_s: float
    wait_gpu_mean_s: float
    evictions: int
    moves: int
    lost_gpu_h: float
    longest_reclaim_s: float
    longest_guaranteed_s: float
    breaches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSeries:
    """One queue over time: GPUs in use, how many of them within the guarantee and beyond it, what was guaranteed,
    what waited, how many jobs were evicted in each stretch, and the part of the fair share it used (None: it wanted
    nothing).
    """

    used: list[float]
    within: list[float]
    borrowed: list[float]
    guaranteed: list[float]
    waiting_jobs: list[float]
    waiting_gpus: list[float]
    evictions: list[int]
    of_fair_share: list[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Everything over time: point n is the mean from `start_s` + n x `bucket_s` on, for `bucket_s` seconds.

    `util` is GPUs in use over GPUs of nodes that work; `fairness` Jain's index over the queues' parts of their fair
    shares (None: nobody wanted anything).
    """

    start_s: float
    bucket_s: float
    util: list[float]
    fairness: list[float | None]
    waiting_jobs: list[float]
    waiting_gpus: list[float]
    evictions: list[int]
    queues: dict[str, QueueSeries]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole cluster and each queue. `util` is GPUs in use over GPUs of working nodes, from the first submission to
    the last. `never_started` jobs are in no wait. `evictions` counts evicted, shrunk and moved jobs, `moves` the moved
    ones; `breaches` guaranteed demand that waited longer than promised; `fairness` is Jain's index of the queues'
    parts of their fair shares (1: all the same), averaged over the time at which any queue wanted GPUs. `window_s` is
    from the first submission to the last.
    """

    jobs: int
    never_started: int
    util: float
    wait_mean_s: float
    wait_p95_s: float
    wait_gpu_mean_s: float
    evictions: int
    moves: int
    lost_gpu_h: float
    longest_reclaim_s: float
    longest_guaranteed_s: float
    breaches: int
    breach_reasons: dict[str, int]
    fairness: float
    plans: int
    window_s: tuple[float, float]
    queues: tuple[QueueReport, ...]
    series: Series


def report(outcome: Outcome, *, policy: Sequence[Queue] | None = None) -> Report:
    """Everything a site asks of a what-if. Fair shares are those of `policy` (default: what was simulated)."""
    tracks, history = outcome.tracks, outcome.history
    queues = sorted(queue for queue, found in history.queues.items() if found.used.times_s or found.guaranteed.now)
    queues += sorted({track.trace.queue for track in tracks} - set(queues))
    of_queue: dict[str, list[Track]] = {queue: [] for queue in queues}
    for track in tracks:
        of_queue[track.trace.queue].append(track)
    series = _series(outcome, queues, outcome.queues if policy is None else policy)
    waits = sorted(_waits(tracks))
    used = sum(history.of(queue).used.mean(*outcome.window_s) for queue in queues)
    working = history.gpus.mean(*outcome.window_s)
    indices = [index for index in series.fairness if index is not None]
    longest = outcome.longest_guaranteed_s
    reasons = sorted({breach.reason for breach in outcome.breaches})
    return Report(
        jobs=len(tracks),
        never_started=len(tracks) - len(waits),
        util=used / working if working else 0.0,
        wait_mean_s=sum(waits) / len(waits) if waits else 0.0,
        wait_p95_s=percentile(waits, 0.95),
        wait_gpu_mean_s=_gpu_mean(tracks),
        evictions=sum(track.evictions for track in tracks),
        moves=sum(track.moves for track in tracks),
        lost_gpu_h=sum(track.lost_gpu_s for track in tracks) / 3600,
        longest_reclaim_s=max((track.longest_reclaim_s for track in tracks), default=0.0),
        longest_guaranteed_s=max(longest.values(), default=0.0),
        breaches=len(outcome.breaches),
        breach_reasons={reason: sum(b.reason == reason for b in outcome.breaches) for reason in reasons},
        fairness=sum(indices) / len(indices) if indices else 1.0,
        plans=outcome.plans,
        window_s=outcome.window_s,
        queues=tuple(_queue(queue, of_queue[queue], outcome, series.queues[queue]) for queue in queues),
        series=series,
    )


def _queue(queue: str, tracks: Sequence[Track], outcome: Outcome, series: QueueSeries) -> QueueReport:
    waits = sorted(_waits(tracks))
    history = outcome.history.of(queue)
    used, within = history.used.mean(*outcome.window_s), history.within.mean(*outcome.window_s)
    parts = [part for part in series.of_fair_share if part is not None]
    return QueueReport(
        queue=queue,
        guaranteed=int(history.guaranteed.now),
        jobs=len(tracks),
        gpu_h=sum(track.gpu_s for track in tracks) / 3600,
        used_gpus=used,
        borrowed_gpus=used - within,
        of_fair_share=sum(parts) / len(parts) if parts else 1.0,
        wait_mean_s=sum(waits) / len(waits) if waits else 0.0,
        wait_p95_s=percentile(waits, 0.95),
        wait_gpu_mean_s=_gpu_mean(tracks),
        evictions=sum(track.evictions for track in tracks),
        moves=sum(track.moves for track in tracks),
        lost_gpu_h=sum(track.lost_gpu_s for track in tracks) / 3600,
        longest_reclaim_s=max((track.longest_reclaim_s for track in tracks), default=0.0),
        longest_guaranteed_s=outcome.longest_guaranteed_s.get(queue, 0.0),
        breaches=sum(breach.queue == queue for breach in outcome.breaches),
    )


def _series(outcome: Outcome, queues: Sequence[str], policy: Sequence[Queue]) -> Series:
    """From the first submission until nobody waits any more."""
    start_s, last_s = outcome.window_s
    starts = [track.first_start_s for track in outcome.tracks if track.first_start_s is not None]
    end_s = max([last_s, *starts])
    bucket_s = max(_MINUTE_S, math.ceil((end_s - start_s) / MOST_BUCKETS / _MINUTE_S) * _MINUTE_S)
    count = max(1, math.ceil((end_s - start_s) / bucket_s))
    edges = [start_s + number * bucket_s for number in range(count + 1)]
    history = outcome.history
    shares = _of_fair_share(outcome, queues, edges, policy)
    found = {queue: _queue_series(history, queue, edges, shares[queue]) for queue in queues}
    working = history.gpus.means(edges)
    used = _sums([one.used for one in found.values()], count)
    fairness = [[part for queue in queues if (part := shares[queue][at]) is not None] for at in range(count)]
    return Series(
        start_s=start_s,
        bucket_s=bucket_s,
        util=[_short(u / g) if g else 0.0 for u, g in zip(used, working, strict=True)],
        fairness=[_short(jain(parts)) if parts else None for parts in fairness],
        waiting_jobs=_sums([one.waiting_jobs for one in found.values()], count),
        waiting_gpus=_sums([one.waiting_gpus for one in found.values()], count),
        evictions=[sum(one.evictions[at] for one in found.values()) for at in range(count)],
        queues=found,
    )


def _queue_series(history: History, queue: str, edges: Sequence[float], shares: list[float | None]) -> QueueSeries:
    found = history.of(queue)
    used, within = found.used.means(edges), found.within.means(edges)
    evictions = [0] * (len(edges) - 1)
    for at_s in found.evicted_s:
        evictions[min(len(evictions) - 1, int((at_s - edges[0]) / (edges[1] - edges[0])))] += 1
    return QueueSeries(
        used=_shorts(used),
        within=_shorts(within),
        borrowed=_shorts(u - w for u, w in zip(used, within, strict=True)),
        guaranteed=_shorts(found.guaranteed.means(edges)),
        waiting_jobs=_shorts(found.waiting_jobs.means(edges)),
        waiting_gpus=_shorts(found.waiting_gpus.means(edges)),
        evictions=evictions,
        of_fair_share=[None if part is None else _short(part) for part in shares],
    )


def _of_fair_share(
    outcome: Outcome, queues: Sequence[str], edges: Sequence[float], policy: Sequence[Queue]
) -> dict[str, list[float | None]]:
    """Per queue and stretch: GPUs used over the fair share of what was wanted, at most 1; None when none was wanted.

    The fair share is what the planner works towards, from the mean demand of the stretch.
    """
    tree = queue_tree(Snapshot(queues=tuple(policy)))
    history = outcome.history
    used = {queue: history.of(queue).used.means(edges) for queue in queues}
    waiting = {queue: history.of(queue).waiting_gpus.means(edges) for queue in queues}
    working = history.gpus.means(edges)
    found: dict[str, list[float | None]] = {queue: [] for queue in queues}
    for at, gpus in enumerate(working):
        wanted = {queue: round(used[queue][at] + waiting[queue][at]) for queue in queues}
        demand = {tree.leaf_of[queue]: count for queue, count in wanted.items() if queue in tree.leaf_of}
        stakes = fair_shares(tree, demand, round(gpus))
        for queue in queues:
            leaf = tree.leaf_of.get(queue)
            share = stakes[leaf].share if leaf is not None else 0.0
            found[queue].append(min(1.0, used[queue][at] / share) if share > 0 else None)
    return found


def _sums(rows: Iterable[Sequence[float]], count: int) -> list[float]:
    total = [0.0] * count
    for row in rows:
        total = [a + b for a, b in zip(total, row, strict=True)]
    return _shorts(total)


def _short(value: float) -> float:
    return round(value, 3)


def _shorts(values: Iterable[float]) -> list[float]:
    return [round(value, 2) for value in values]


def _waits(tracks: Iterable[Track]) -> list[float]:
    return [wait_s for track in tracks if (wait_s := track.wait_s) is not None]


def _gpu_mean(tracks: Iterable[Track]) -> float:
    """The mean wait of a GPU asked for: large jobs count for more."""
    started = [(wait_s, track.trace.gpus) for track in tracks if (wait_s := track.wait_s) is not None]
    gpus = sum(count for _, count in started)
    return sum(wait_s * count for wait_s, count in started) / gpus if gpus else 0.0


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie (nearest rank); 0 when there are none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all are equal, 1/n when one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0
