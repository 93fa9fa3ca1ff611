"""Caps: how many jobs of an array, or of those that a limit of Slurm's own holds back, are released at a time.

Slurm starts no more of them. Whoever is released all the same keeps GPUs from others and does not start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping

from slurmext.model.job import HOLDING, Cap, CapKind, Job, JobState
from slurmext.model.plan import Reason
from slurmext.model.slicing import SliceJob

CAP_REASONS: Mapping[CapKind, Reason] = {CapKind.ARRAY: Reason.ARRAY_MAX, CapKind.SLURM: Reason.SLURM_LIMIT}
"""Why a job waits that a cap of this kind holds back."""


def takes_place(job: Job | SliceJob) -> bool:
    """Whether the job counts under its caps: it runs, or is about to."""
    reserved = isinstance(job, SliceJob) and job.state is JobState.PENDING and bool(job.places)
    return reserved or (job.state in HOLDING and job.state is not JobState.COMPLETING)


def over_caps(
    waiting: Iterable[Job | SliceJob], running: Mapping[str, int], first: Container[str] = ()
) -> dict[str, Cap]:
    """By job that its caps keep waiting, the cap that does. `running` is how many jobs count under each by name.

    Places go to those that are `first` (what they wait for is promised to them), then in the order of `waiting`.
    """
    taken = Counter(running)
    over: dict[str, Cap] = {}
    for job in sorted(waiting, key=lambda job: job.id not in first):
        full = next((cap for cap in job.caps if taken[cap.name] >= cap.most), None)
        if full is not None:
            over[job.id] = full
        else:
            for cap in job.caps:
                taken[cap.name] += 1
    return over


def cap_sentence(job: Job | SliceJob, kind: CapKind, running: Mapping[str, int]) -> str:
    """Why the job waits for its caps of this kind. `running` is how many jobs each has, those released included."""
    caps = [cap for cap in job.caps if cap.kind is kind]
    cap = next((cap for cap in caps if running.get(cap.name, 0) >= cap.most), caps[0] if caps else None)
    if cap is None:
        return "Slurm starts no more jobs like it now"
    count = running.get(cap.name, 0)
    if kind is CapKind.ARRAY:
        runs = "one runs" if cap.most == 1 else f"{cap.most} run"
        return f"task limit of the array (%{cap.most}): {runs} at a time, and {_are(count)} running or about to start"
    return f"{cap.name.partition(' ')[0]}: Slurm starts no more jobs like it while {_are(count)} running"


def _are(count: int) -> str:
    return f"{count} {'is' if count == 1 else 'are'}"
