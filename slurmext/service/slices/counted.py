"""What slices count against quotas: each the larger of its compute and its memory share of a GPU. Pure.

The one place that adds them up: for the planner, for `queue list` and for every message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from slurmext.model.slice_state import SliceRecord
from slurmext.model.slicing import WHOLE_MILLI
from slurmext.model.state import JobKey

_CENTS = 2


def gpus_in(records: Iterable[SliceRecord]) -> float:
    """GPUs that the slices are together, to the hundredth.

    What each counts was rounded up to the thousandth: where the true sum may be a whole number it is one, so that seven
    sevenths are one GPU.
    """
    each = [record.milli for record in records]
    most = sum(each)
    least = most - len(each)
    whole = most // WHOLE_MILLI
    if whole and whole * WHOLE_MILLI > least:
        return float(whole)
    return round(most / WHOLE_MILLI, _CENTS)


def by_queue(records: Iterable[SliceRecord]) -> dict[str, float]:
    """GPUs in slices of each queue, those of queues below it included."""
    found = dict[str, list[SliceRecord]]()
    for record in records:
        path = record.queue
        while path:
            found.setdefault(path, []).append(record)
            path = path.rpartition("/")[0]
    return {path: gpus_in(mine) for path, mine in found.items()}


def by_job(records: Iterable[SliceRecord]) -> Mapping[JobKey, float]:
    """GPUs of each job's newest reservation."""
    newest = dict[JobKey, dict[str, list[SliceRecord]]]()
    for record in sorted(records, key=lambda record: record.id):
        newest.setdefault(record.job, {}).setdefault(record.reservation, []).append(record)
    return {job: gpus_in([*by_reservation.values()][-1]) for job, by_reservation in newest.items()}
