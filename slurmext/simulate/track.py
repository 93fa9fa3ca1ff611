"""What becomes of each job of a trace, and of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slurmext.model.job import Job, JobState, Placement
from slurmext.model.queue import Queue
from slurmext.simulate.contract import Breach
from slurmext.simulate.history import History
from slurmext.simulate.workload import TraceJob


@dataclass(slots=True)
class Track:
    """One job of the trace through the simulation. Times in seconds of the trace, `lost_gpu_s` in GPU-seconds.

    `work_s` is what is left to do with all tasks running; `evictions` counts all times it was told to leave or to
    shrink for another, `moves` those of them that were moves to another place.
    """

    trace: TraceJob
    job: Job
    work_s: float
    first_start_s: float | None = None
    ended_s: float | None = None
    evictions: int = 0
    moves: int = 0
    lost_gpu_s: float = 0.0
    gpu_s: float = 0.0
    since_s: float = 0.0
    epoch: int = 0
    saved_work_s: float = 0.0
    moving: bool = False
    reclaim_since_s: float | None = None
    longest_reclaim_s: float = 0.0
    """Longest time the job waited while GPUs were being taken back for it."""

    @classmethod
    def of(cls, trace: TraceJob) -> Track:
        """The job before anything happened to it."""
        return cls(trace=trace, job=trace.as_pending(), work_s=float(trace.duration_s))

    @property
    def rate(self) -> float:
        """Work done per second now: 1 with all tasks."""
        return self.job.placed_gpus / self.trace.gpus if self.trace.gpus else 1.0

    @property
    def wait_s(self) -> float | None:
        """Seconds from submission to the first start; None when it never started."""
        return None if self.first_start_s is None else self.first_start_s - self.trace.submit_s

    @property
    def waits(self) -> bool:
        """Whether it has no GPUs now."""
        return self.job.state is JobState.PENDING

    def account(self, now_s: float) -> None:
        """Count what the job did since it was last looked at."""
        spent = now_s - self.since_s
        if self.job.placement and spent > 0:
            self.work_s -= spent * self.rate
            self.gpu_s += spent * self.job.placed_gpus
        self.since_s = now_s

    def begin(self, placement: Placement, now_s: float, restart_s: float) -> None:
        """Count a start: from the second on it costs `restart_s`."""
        if self.first_start_s is None:
            self.first_start_s = now_s
        else:
            self.work_s += restart_s
            self.lost_gpu_s += restart_s * sum(part.gpus for part in placement)
        self.since_s = now_s
        self.saved_work_s = self.work_s
        if self.reclaim_since_s is not None:
            self.longest_reclaim_s = max(self.longest_reclaim_s, now_s - self.reclaim_since_s)
            self.reclaim_since_s = None

    def lose(self, every_s: float | None) -> None:
        """Go back to the last periodic checkpoint."""
        done = self.saved_work_s - self.work_s
        kept = done // every_s * every_s if every_s else 0.0
        self.lost_gpu_s += (done - kept) * self.trace.gpus
        self.work_s = self.saved_work_s - kept


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of it. `window_s` is from the first submission to the last, or to the end when all came at once.

    `longest_guaranteed_s` is the longest that guaranteed demand of each queue waited.
    """

    tracks: list[Track]
    history: History
    breaches: Sequence[Breach]
    longest_guaranteed_s: Mapping[str, float]
    gpus: int
    plans: int
    window_s: tuple[float, float]
    queues: tuple[Queue, ...]
