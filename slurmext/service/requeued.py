"""Victims that Slurm has requeued, until they are where they belong: held, so that they wait in their queue; those that
Slurm alone starts (heterogeneous jobs) are let go at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from slurmext.model.cluster import JobRecord
from slurmext.model.job import JobState
from slurmext.model.state import ActionRecord, ActionState
from slurmext.ports import Actuator
from slurmext.service.deadlines import number
from slurmext.service.observe import Observation

HOLD_WITHIN_S = 2.0
HOLD_BEFORE_S = 3.0
"""A requeued victim is held when its beneficiary runs, but within this time, and this long before it is eligible."""


def is_delayed(action: ActionRecord, record: JobRecord, now: float) -> bool:
    """Whether Slurm was told to requeue it, and does not start it before a delay is over that it does not need."""
    ours = action.state in {ActionState.INTENT, ActionState.REQUEUED}
    return ours and record.state is JobState.PENDING and (record.eligible_s or 0) > now


class Requeued:
    """Those of one cycle."""

    def __init__(self, actuator: Actuator) -> None:
        self._actuator = actuator
        self._unheld, self._delayed = list[str](), list[str]()
        self._at_once = False

    def forget(self) -> None:
        """A new cycle begins."""
        self._unheld.clear()
        self._delayed.clear()

    def see(self, action: ActionRecord, record: JobRecord, observation: Observation, now: float) -> None:
        """Look at the job of an eviction."""
        if record.het:
            self._delayed += [action.job.job_id] if is_delayed(action, record, now) else []
        elif self._is_due(action, record, observation, now):
            self._unheld.append(action.job.job_id)

    def started_again(self, record: JobRecord) -> None:
        """Slurm's requeue delay is shorter than ours before the hold: from now on there is none."""
        self._at_once = self._at_once or not record.het

    def told(self, job_ids: Iterable[str], observation: Observation) -> None:
        """Slurm was told to requeue these just now."""
        if self._at_once:
            self._actuator.hold_requeued([job_id for job_id in job_ids if job_id not in observation.het])

    def act(self) -> bool:
        """Do what is due, now that everything urgent is done; whether there was a job to hold."""
        if self._delayed:
            self._actuator.expedite(self._delayed)
        if self._unheld:
            self._actuator.hold_requeued(self._unheld)
        return bool(self._unheld)

    def _is_due(self, action: ActionRecord, record: JobRecord, observation: Observation, now: float) -> bool:
        """Whether a requeued victim is to be held now. Its beneficiary first: Slurm may take a second over a hold, and
        does not start the victim before its requeue delay is over.
        """
        if record.state is not JobState.PENDING or record.held:
            return False
        beneficiary = observation.known.get(str(action.detail.get("beneficiary", "")))
        waits = beneficiary is not None and beneficiary.record.state is JobState.PENDING
        soon = (record.eligible_s or 0) - now < HOLD_BEFORE_S
        return not waits or soon or self._at_once or now - number(action, "requeued_s") > HOLD_WITHIN_S
