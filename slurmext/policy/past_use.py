"""What queues borrowed lately: a mean over time in which what was a half-life ago counts half."""

from __future__ import annotations

from collections.abc import Mapping

from slurmext.model.job import Seconds
from slurmext.model.snapshot import Snapshot
from slurmext.policy.counting import Count

FORGOTTEN = 0.01
"""GPUs. A queue that borrowed less on average is as good as new."""


def borrowed(snapshot: Snapshot) -> dict[str, int]:
    """GPUs that every queue uses beyond its guarantee now, by path."""
    count = Count(snapshot)
    used, nodes = count.ledger().held.total, count.tree.nodes
    return {path: max(0, used[index] - nodes[index].guaranteed) for path, index in count.tree.by_path.items()}


def faded(
    past: Mapping[str, float], now: Mapping[str, int], elapsed_s: Seconds, half_life_s: float
) -> dict[str, float]:
    """Mean GPUs by queue, `elapsed_s` after they were `past`, when queues borrowed `now` GPUs all that time."""
    weight = 0.5 ** (max(0.0, float(elapsed_s)) / half_life_s)
    found = {path: weight * past.get(path, 0.0) + (1 - weight) * now.get(path, 0) for path in sorted({*past, *now})}
    return {path: gpus for path, gpus in found.items() if gpus >= FORGOTTEN or now.get(path, 0)}
