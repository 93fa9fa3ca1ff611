"""When small jobs are to move together: by the policy's schedule, or because an admin asked."""

from __future__ import annotations

from zoneinfo import ZoneInfo

from slurmext.config.calendar import cron, fires
from slurmext.model.plan import Plan
from slurmext.model.policy import Policy
from slurmext.model.snapshot import Defragment
from slurmext.policy.defragment import PATIENCE_S


class Tidying:
    """Remembers a wish until it came true or lapsed. Times in Unix seconds."""

    def __init__(self) -> None:
        self._until_s = 0.0
        self._asked = False
        self._planned: tuple[str, str, float] | None = None

    def ask(self) -> None:
        """Somebody wants it now. Safe to call from another thread."""
        self._asked = True

    def wish(self, policy: Policy, now_s: float) -> Defragment | None:
        """What this cycle's plan shall wish for."""
        due_s = self.next_s(policy, now_s)
        if self._asked or (due_s is not None and due_s <= now_s):
            self._asked, self._until_s = False, now_s + PATIENCE_S
            self._planned = None
        return policy.defragment if now_s < self._until_s else None

    def saw(self, plan: Plan) -> None:
        """The wish came true: the next one is the next time's."""
        if any(not move.beneficiary for move in plan.move):
            self._until_s = 0.0

    def next_s(self, policy: Policy, now_s: float) -> float | None:
        """When the schedule is due next, in the past when it is due now; None without one."""
        schedule = policy.defragment_schedule
        if schedule is None:
            return None
        if self._planned is None or self._planned[:2] != (schedule, policy.timezone):
            found = next(fires(cron(schedule, ZoneInfo(policy.timezone)), now_s), None)
            if found is None:
                return None
            self._planned = schedule, policy.timezone, found
        return self._planned[2]
