"""When a victim's grace is over, when the daemon must look for that, and what its ledger says in the end. Times in
Unix seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from slurmext.model.state import ActionRecord, ActionState, PreemptionRecord

END_AFTER_S = 1.0
"""A victim has its grace to be gone, and this long after TERM; then what is left of it is killed, and again."""
TOGETHER_S = 0.3
"""Victims are told one after the other: those whose grace ends so close together are dealt with together."""


class Deadlines:
    """Of evictions under way. Remembers when what was left of a job was last to be killed."""

    def __init__(self) -> None:
        self._ended_s = dict[int, float]()

    def ended(self, action: ActionRecord, now: float) -> None:
        """What is left of the victim was told to be killed."""
        self._ended_s[action.id] = now

    def forget(self, action: ActionRecord) -> None:
        """The eviction is over."""
        self._ended_s.pop(action.id, None)

    def grace_end_s(self, action: ActionRecord) -> float:
        """The end of the grace, which for who had no signal began with TERM."""
        requeued_s = number(action, "requeued_s")
        grace_end_s = number(action, "deadline_s") or requeued_s + number(action, "grace_s")
        return max(grace_end_s, requeued_s + END_AFTER_S, self._ended_s.get(action.id, 0.0) + END_AFTER_S)

    def next_s(self, actions: Sequence[ActionRecord], after_s: float) -> float | None:
        """When the next grace of these actions ends, or the next patience with a victim that does not go. `after_s` is
        when they were looked at last: what came due since is due now.
        """
        times = [number(action, "deadline_s") for action in actions if action.state is ActionState.SIGNALLED]
        times += [self.grace_end_s(action) for action in actions if action.state is ActionState.REQUEUED]
        first_s = min((at_s for at_s in times if at_s > after_s), default=None)
        return None if first_s is None else max(at_s for at_s in times if at_s <= first_s + TOGETHER_S)


def ledger_line(action: ActionRecord, now: float) -> PreemptionRecord:
    """What the victim of this eviction lost, to whom and why. After a confirmed checkpoint only what came since."""
    get = action.detail.get
    signalled, confirmed = get("signalled_s"), get("confirmed_s")
    gpus = int(number(action, "gpus"))
    lost = number(action, "lost_gpu_s")
    if isinstance(confirmed, int | float):
        lost = max(0.0, (number(action, "requeued_s") - confirmed) * gpus)
    return PreemptionRecord(
        victim=action.job,
        victim_user=str(get("user", "")),
        beneficiary=str(get("beneficiary", "")),
        reason=action.reason,
        from_queue=str(get("from_queue", "")),
        to_queue=str(get("to_queue", "")),
        gpus=gpus,
        lost_gpu_s=lost,
        signalled_s=float(signalled) if isinstance(signalled, int | float) else None,
        confirmed_s=float(confirmed) if isinstance(confirmed, int | float) else None,
        ended_s=now,
    )


def number(action: ActionRecord, key: str) -> float:
    """A number of the action's detail, 0 where there is none."""
    value = action.detail.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
