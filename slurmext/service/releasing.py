"""Releases: begun, followed until their jobs start, and taken back where Slurm does not start them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import cast

from slurmext.errors import SlurmRefused
from slurmext.model.cluster import JobRecord
from slurmext.model.job import JobState
from slurmext.model.state import ActionRecord, ActionState
from slurmext.ports import Actuator
from slurmext.service.observe import Observation
from slurmext.service.overdue import Leaving, overdue
from slurmext.service.placing import place_all
from slurmext.service.steps import Steps

_NEVER = "BadConstraints"
"""Slurm's reason of a job that asks for what no node of its partition has; it has it held then."""
_BEHIND_OTHERS = "Priority"
"""Slurm's reason of a job that it would start if jobs of higher priority did not wait in its partition."""
_BEHIND_OTHERS_S = 1.5
"""A released job is put before those after this time; until then Slurm may just not have looked at it."""
_MOST_FIRSTS = 8
"""So many jobs are put first in one cycle: each costs a command."""


class Releases:
    """Of one holder of the controller lease."""

    def __init__(self, steps: Steps, actuator: Actuator) -> None:
        self._steps, self._actuator = steps, actuator
        self._leaving = Leaving()
        self._first = set[int]()
        self._firsts_left = 0
        self.robbed = set[str]()
        """Jobs of this cycle whose victims started again in their place."""

    def see(self, open_actions: Sequence[ActionRecord], observation: Observation, now: float) -> None:
        """Look at what is open, at the beginning of a cycle."""
        self.robbed.clear()
        self._firsts_left = _MOST_FIRSTS
        self._leaving.see(open_actions, observation, now)

    def begin(self, token: int, actions: Sequence[ActionRecord], observation: Observation) -> None:
        """Place the jobs and let Slurm start them."""
        ready, unplaced = place_all(self._actuator, actions, observation)
        for action, why in unplaced:
            self._steps.advance(token, action, ActionState.REFUSED, why)
        if not ready:
            return
        refused = self._actuator.release([action.job.job_id for action in ready])
        self._steps.crash("released")
        for action in ready:
            why = refused.get(action.job.job_id)
            self._steps.advance(token, action, ActionState.REFUSED if why else ActionState.RELEASED, why or "")
            if not why and observation.rivals and action.detail.get("nodes"):
                self._put_first(action)  # before anybody else gets GPUs that a place was made on

    def follow(
        self, token: int, action: ActionRecord, record: JobRecord | None, observation: Observation, now: float
    ) -> None:
        """Take one as far as Slurm's state allows."""
        if record is None:
            self._steps.advance(token, action, ActionState.DONE, "the job has ended")
        elif record.state is not JobState.PENDING:
            nodes = [part.node for part in record.placement] or cast("list[str]", action.detail.get("nodes") or [])
            self._steps.advance(token, action, ActionState.DONE, f"started on {','.join(nodes)}")
        elif record.held and record.reason == _NEVER:
            # Slurm holds it by itself, and would again at once. A reservation of slices has a penalty of its own.
            detail: dict[str, object] = {} if "reservation" in action.detail else {"not_started": True}
            self._steps.advance(
                token, action, ActionState.ABANDONED, f"Slurm says that no node could run it: {_NEVER}", detail
            )
        elif record.held:
            self._steps.advance(token, action, ActionState.ABANDONED, "the job is held")
        elif action.state is ActionState.INTENT:
            self._steps.advance(token, action, ActionState.RELEASED)
        elif record.reserved:
            self._steps.advance(token, action, ActionState.DONE, f"Slurm starts it in reservation {record.reservation}")
        else:
            left_s = self._leaving.seen_s(action)
            robbed = action.job.job_id in self.robbed
            if record.reason == _BEHIND_OTHERS and now - action.changed_s > _BEHIND_OTHERS_S:
                self._put_first(action)
            verdict = overdue(action, record, observation, left_s=left_s, robbed=robbed, now=now)
            if verdict is not None:
                self._steps.attempt(token, action, self._actuator.hold, ActionState.ABANDONED, *verdict)

    def _put_first(self, action: ActionRecord) -> None:
        """A job that waits outside our queues keeps later ones from starting, or takes what was freed for them."""
        if action.id in self._first or not self._firsts_left:
            return
        self._first.add(action.id)
        self._firsts_left -= 1
        with contextlib.suppress(SlurmRefused):
            self._actuator.put_first(action.job.job_id)
