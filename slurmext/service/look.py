"""What a cycle saw and decided, as the laws over time look at it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from slurmext.model.cluster import ClusterView
from slurmext.model.job import JobState
from slurmext.model.plan import Plan
from slurmext.model.state import ActionRecord
from slurmext.policy.invariants.over_time import Departure, Look
from slurmext.service.observe import Observation


def look_of(view: ClusterView, observation: Observation, plan: Plan, evictions: Iterable[ActionRecord]) -> Look:
    """What really runs is what Slurm says; who is told to leave is what is written down as under way."""
    return Look(
        snapshot=observation.snapshot,
        plan=plan,
        running={
            record.slurm_id: record.start_s
            for record in view.jobs
            if record.state is JobState.RUNNING and record.slurm_id in observation.known
        },
        told=[
            Departure(job=action.job.job_id, started_s=_start(action), beneficiary=str(action.detail["beneficiary"]))
            for action in evictions
            if action.detail.get("beneficiary")
        ],
        rounded_s=1,
    )


def _start(action: ActionRecord) -> float | None:
    started_s = action.detail.get("start_s")
    return started_s if isinstance(started_s, int | float) else None
