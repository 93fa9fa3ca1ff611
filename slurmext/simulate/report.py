"""What a simulation means: utilisation, waits, evictions, lost work, guarantees, fairness."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from slurmext.simulate.engine import Outcome, Sample, Track


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReport:
    """One queue. Waits in seconds, from submission to the first start; `used_gpus` is the mean over the window."""

    queue: str
    guaranteed: int
    jobs: int
    gpu_h: float
    used_gpus: float
    wait_mean_s: float
    wait_p95_s: float
    evictions: int
    lost_gpu_h: float
    longest_reclaim_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole cluster and each queue. `util` is GPUs in use over GPUs there are, from first to last submission.

    `late` counts jobs that GPUs were being taken back for longer than grace + 5 s; `fairness` is Jain's index of what
    queues got of what they wanted (1: all the same).
    """

    jobs: int
    util: float
    wait_mean_s: float
    wait_p95_s: float
    evictions: int
    lost_gpu_h: float
    late: int
    fairness: float
    plans: int
    queues: tuple[QueueReport, ...]


def report(outcome: Outcome, *, grace_s: float) -> Report:
    """Everything a site asks of a what-if."""
    tracks = outcome.tracks
    queues = sorted({track.trace.queue for track in tracks} | {queue.path for queue in outcome.queues})
    guaranteed = {queue.path: queue.guaranteed or 0 for queue in outcome.queues}
    used = {queue: mean_used(outcome.samples, outcome.window_s, queue) for queue in queues}
    per_queue = [
        _queue(queue, [track for track in tracks if track.trace.queue == queue], guaranteed.get(queue, 0), used[queue])
        for queue in queues
    ]
    waits = sorted(_waits(tracks))
    return Report(
        jobs=len(tracks),
        util=mean_used(outcome.samples, outcome.window_s) / outcome.gpus if outcome.gpus else 0.0,
        wait_mean_s=sum(waits) / len(waits) if waits else 0.0,
        wait_p95_s=percentile(waits, 0.95),
        evictions=sum(track.evictions for track in tracks),
        lost_gpu_h=sum(track.lost_gpu_s for track in tracks) / 3600,
        late=sum(track.longest_reclaim_s > grace_s + 5 for track in tracks),
        fairness=jain([q.gpu_h / (q.gpu_h + _waited_gpu_h(q.queue, tracks)) for q in per_queue if q.gpu_h > 0]),
        plans=outcome.plans,
        queues=tuple(q for q in per_queue if q.jobs or q.guaranteed),
    )


def _queue(queue: str, tracks: Sequence[Track], guaranteed: int, used: float) -> QueueReport:
    waits = sorted(_waits(tracks))
    return QueueReport(
        queue=queue,
        guaranteed=guaranteed,
        jobs=len(tracks),
        gpu_h=sum(track.gpu_s for track in tracks) / 3600,
        used_gpus=used,
        wait_mean_s=sum(waits) / len(waits) if waits else 0.0,
        wait_p95_s=percentile(waits, 0.95),
        evictions=sum(track.evictions for track in tracks),
        lost_gpu_h=sum(track.lost_gpu_s for track in tracks) / 3600,
        longest_reclaim_s=max((track.longest_reclaim_s for track in tracks), default=0.0),
    )


def _waits(tracks: Iterable[Track]) -> list[float]:
    return [track.first_start_s - track.trace.submit_s for track in tracks if track.first_start_s is not None]


def _waited_gpu_h(queue: str, tracks: Iterable[Track]) -> float:
    return (
        sum(
            (track.first_start_s - track.trace.submit_s) * track.trace.gpus
            for track in tracks
            if track.trace.queue == queue and track.first_start_s is not None
        )
        / 3600
    )


def mean_used(samples: Sequence[Sample], window_s: tuple[float, float], queue: str | None = None) -> float:
    """GPUs in use, averaged over the window (of one queue, or of all)."""
    first, last = window_s
    total = 0.0
    for sample, after in zip(samples, [*samples[1:], None], strict=True):
        begin = max(first, sample.at_s)
        end = min(last, after.at_s if after else last)
        if end > begin:
            total += (end - begin) * _used(sample.used, queue)
    return total / (last - first) if last > first else 0.0


def _used(used: Mapping[str, int], queue: str | None) -> int:
    return sum(used.values()) if queue is None else used.get(queue, 0)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie (nearest rank); 0 when there are none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index: 1 when all are equal, 1/n when one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0
