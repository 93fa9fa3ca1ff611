"""What happened, on Slurm or simulated, and how far two such histories are apart."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from live.load import NODE_GPUS, Load
from slurmext.simulate.report import percentile


@dataclass(slots=True, kw_only=True)
class History:
    """What happened: when each job was submitted, and when it worked. Times in seconds since the beginning."""

    submits: dict[str, float] = field(default_factory=dict[str, float])
    runs: list[tuple[str, float, float]] = field(default_factory=list[tuple[str, float, float]])
    evictions: int = 0

    def starts(self) -> dict[str, float]:
        """First starts."""
        found: dict[str, float] = {}
        for job, start_s, _ in self.runs:
            found[job] = min(start_s, found.get(job, start_s))
        return found

    def waits(self, lasts_s: float) -> list[float]:
        """From submission to the first start, or to the end for those that did not start."""
        starts = self.starts()
        return [min(lasts_s, starts.get(job, lasts_s)) - at_s for job, at_s in self.submits.items()]


def agreement(one: History, other: History, load: Load) -> dict[str, float]:
    """How far two histories are apart."""
    mine, theirs = one.starts(), other.starts()
    both = mine.keys() & theirs.keys()
    apart = sorted(abs(mine[job] - theirs[job]) for job in both)
    gpus = {job.id: job.gpus for job in load.jobs}
    all_gpus = load.nodes * NODE_GPUS * load.lasts_s

    def util(history: History) -> float:
        return sum(gpus[job] * (end_s - start_s) for job, start_s, end_s in history.runs) / all_gpus

    return {
        "start_diff_s_p50": round(percentile(apart, 0.5), 2),
        "start_diff_s_p95": round(percentile(apart, 0.95), 2),
        "evictions_live": one.evictions,
        "evictions_sim": other.evictions,
        "wait_mean_live_s": round(statistics.fmean(one.waits(load.lasts_s)), 2),
        "wait_mean_sim_s": round(statistics.fmean(other.waits(load.lasts_s)), 2),
        "util_live": round(util(one), 4),
        "util_sim": round(util(other), 4),
        "disagree_pct": round(100 * len(mine.keys() ^ theirs.keys()) / max(1, len(mine.keys() | theirs.keys())), 2),
    }


def in_use(history: History, load: Load, step_s: float) -> tuple[list[float], list[int]]:
    """GPUs at work over time."""
    gpus = {job.id: job.gpus for job in load.jobs}
    changes = sorted(
        change
        for job, start_s, end_s in history.runs
        for change in ((start_s, gpus[job]), (end_s, -gpus[job]))
    )  # fmt: skip
    times = [number * step_s for number in range(int(load.lasts_s / step_s) + 1)]
    used, at, found = 0, 0, []
    for time_s in times:
        while at < len(changes) and changes[at][0] <= time_s:
            used += changes[at][1]
            at += 1
        found.append(used)
    return times, found


def waiting(history: History, times: Sequence[float]) -> list[int]:
    """Jobs that were submitted and did not run before, over time."""
    starts = history.starts()
    return [
        sum(at_s <= time_s < starts.get(job, float("inf")) for job, at_s in history.submits.items())
        for time_s in times
    ]  # fmt: skip


def draw(path: Path, load: Load, live: History, simulated: History) -> None:
    """Both histories over time."""
    try:
        import matplotlib as mpl
    except ImportError:
        print(f"no matplotlib, so no {path.name}: pip install 'slurmext[plot]'", file=sys.stderr)
        return

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (axes, below) = plt.subplots(2, figsize=(9, 5), sharex=True, layout="constrained")
    for history, label, style in ((live, "on Slurm", "-"), (simulated, "simulated", "--")):
        times, used = in_use(history, load, max(0.5, load.lasts_s / 1000))
        axes.step([time_s / 60 for time_s in times], used, style, where="post", label=label, linewidth=1.2)
        below.step([time_s / 60 for time_s in times], waiting(history, times), style, where="post", linewidth=1.2)
    axes.axhline(load.nodes * NODE_GPUS, color="0.7", linewidth=0.8)
    axes.set(ylabel="GPUs at work", ylim=(0, None), xlim=(0, load.lasts_s / 60))
    axes.legend(loc="lower right")
    below.set(xlabel="minutes", ylabel="jobs that never ran yet", ylim=(0, None))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
