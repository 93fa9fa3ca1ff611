"""Judges the demo by Slurm's records and the jobs' output. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slurmext.demo.records import Output, SlurmRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that must be true, and what was found."""

    what: str
    good: bool
    found: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """`research` and `outputs` by job id; `before` are the nodes each research job was on when prod asked; `savers`
    had a fresh checkpoint then. `submitted_s` is when the gang was submitted, `running_s` when Slurm showed it running.
    """

    research: Mapping[str, SlurmRecord]
    outputs: Mapping[str, Output]
    gang: SlurmRecord
    before: Mapping[str, Sequence[str]]
    savers: frozenset[str]
    gpus_per_job: int
    gang_gpus: int
    submitted_s: float
    running_s: float
    deadline_s: float
    reference_loss: str


def checks(seen: Evidence) -> list[Check]:
    """Every claim of the demo."""
    victims = sorted(job for job, record in seen.research.items() if record.restarts)
    freed = len(victims) * seen.gpus_per_job
    waited = seen.running_s - seen.submitted_s
    nodes = {node for job in victims for node in seen.before[job]}
    handed_over = {job: (seen.outputs[job].last_saved, seen.outputs[job].resumed) for job in victims}
    losses = {seen.outputs[job].loss for job in seen.research}
    states = {record.state for record in [*seen.research.values(), seen.gang]}
    return [
        Check(
            what=f"prod's gang started within its deadline of {seen.deadline_s:g} s",
            good=waited <= seen.deadline_s,
            found=f"running {waited:.1f} s after sbatch, on {','.join(seen.gang.nodes)}",
        ),
        Check(
            what=f"no more victims than needed: {seen.gang_gpus} GPUs freed, where the gang now runs",
            good=freed == seen.gang_gpus and nodes == set(seen.gang.nodes),
            found=f"{len(victims)} of {len(seen.research)} jobs requeued, {freed} GPUs on {','.join(sorted(nodes))}",
        ),
        Check(
            what="the cheapest: those with the least work since their last checkpoint",
            good=set(victims) == seen.savers,
            found=f"requeued {', '.join(victims)}; saved a moment before: {', '.join(sorted(seen.savers))}"
            + _spared(seen),
        ),
        Check(
            what="each victim was requeued once by Slurm, the others never",
            good=all(record.restarts == (job in victims) for job, record in seen.research.items()),
            found=f"Restarts: {sum(record.restarts for record in seen.research.values())} in all",
        ),
        Check(
            what="each victim resumed at the step it saved",
            good=bool(victims) and all(resumed and resumed == saved for saved, resumed in handed_over.values()),
            found=", ".join(f"{job} saved {s} resumed {r}" for job, (s, r) in _shown(handed_over)),
        ),
        Check(
            what="every job ended with the loss of an uninterrupted run",
            good=losses == {seen.reference_loss},
            found=f"{seen.reference_loss} alone, {', '.join(sorted(map(str, losses)))} here",
        ),
        Check(what="every job COMPLETED", good=states == {"COMPLETED"}, found=", ".join(sorted(states))),
    ]


def _spared(seen: Evidence) -> str:
    """What those would have lost that had no checkpoint yet: all since they started."""
    starts = [seen.research[job].start_s for job in seen.research.keys() - seen.savers]
    lost = [seen.submitted_s - start_s for start_s in starts if start_s is not None]
    return f"; the others would have lost {min(lost):.0f} to {max(lost):.0f} s of work" if lost else ""


def _shown(handed_over: Mapping[str, tuple[Sequence[int | None], Sequence[int]]]) -> list[tuple[str, tuple[str, str]]]:
    return [(job, (_words(saved), _words(resumed))) for job, (saved, resumed) in handed_over.items()]


def _words(steps: Sequence[int | None]) -> str:
    return ",".join(str(step) for step in steps) or "nothing"
