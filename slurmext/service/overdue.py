"""Released jobs that Slurm does not start: when their release is taken back, and why."""

from __future__ import annotations

from collections.abc import Sequence

from slurmext.model.cluster import JobRecord
from slurmext.model.job import JobState
from slurmext.model.state import ActionKind, ActionRecord
from slurmext.service.limits import REFUSED_S, refusal, refused_by
from slurmext.service.observe import Observation

RELEASE_PATIENCE_S = 30.0
"""How long Slurm may take to start a released job before the release is taken back."""
PLACE_PATIENCE_S = 10.0
"""The same for a job released to named nodes: what was free there when it was planned may be gone."""
MISPLACED_S = 2.0
"""The same where Slurm says that it lacks the resources the plan saw."""
LEAVE_PATIENCE_S = 60.0
"""How long the victims of a released job may take to end (KillWait and an epilog) before its release is taken back."""

Verdict = tuple[str, dict[str, object]]
"""What is written of a release that is taken back: in words, and for the plans to come."""


class Leaving:
    """For whom victims are still leaving: those have not begun to wait for Slurm."""

    def __init__(self) -> None:
        self._seen_s = dict[str, float]()  # beneficiary -> when its victims were last seen leaving

    def see(self, actions: Sequence[ActionRecord], observation: Observation, now: float) -> None:
        """Look at the open actions."""
        waiting = {action.job.job_id for action in actions if action.kind is ActionKind.RELEASE}
        self._seen_s = {job_id: at_s for job_id, at_s in self._seen_s.items() if job_id in waiting}
        for action in actions:
            known = observation.known.get(action.job.job_id)
            gone = known is None or known.record.state is JobState.PENDING
            if action.kind is ActionKind.EVICT and not gone and action.detail.get("beneficiary") in waiting:
                self._seen_s[str(action.detail["beneficiary"])] = now

    def seen_s(self, release: ActionRecord) -> float:
        """When victims of its job were last seen leaving; when it was released, if never."""
        return self._seen_s.get(release.job.job_id, release.changed_s)


def overdue(
    action: ActionRecord, record: JobRecord, observation: Observation, *, left_s: float, robbed: bool, now: float
) -> Verdict | None:
    """The verdict on a release whose job still waits; None while Slurm has time.

    `left_s` is when its victims were last seen leaving, or else when it was released; `robbed`: one of them was started
    again in its place.
    """
    limit = refused_by(record) if now - left_s > REFUSED_S else ""
    if limit:
        detail = refusal(record, limit, (known.record for known in observation.known.values()))
        return f"Slurm starts no more jobs like it now: {limit}", detail
    placed = bool(action.detail.get("nodes"))
    patience_s = PLACE_PATIENCE_S if placed else RELEASE_PATIENCE_S
    # Slurm looked and found no room where the plan did: it put others elsewhere than planned. Plan anew.
    misplaced = not placed and record.reason == "Resources" and now - left_s > MISPLACED_S
    if not (robbed or misplaced or now - left_s > patience_s or now - action.changed_s > LEAVE_PATIENCE_S):
        return None
    waited_s = MISPLACED_S if misplaced else patience_s
    message = f"Slurm did not start it within {waited_s:g} s: {record.reason}"
    message = "a victim was started again in its place" if robbed else message
    return message, {"not_started": not placed and not misplaced, "misplaced": misplaced}
