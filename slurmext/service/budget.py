"""How many jobs may still be requeued: the policy's budgets per cycle and per hour."""

from __future__ import annotations

from slurmext.model.policy import Policy
from slurmext.model.state import ActionKind
from slurmext.ports import Store


def requeues_left(store: Store, policy: Policy, now: float) -> int | None:
    """How many jobs may be requeued in this cycle (Unix seconds); None = no limit."""
    left = policy.max_requeues_per_cycle
    if policy.max_requeues_per_hour is not None:
        done = store.count_actions(action=ActionKind.EVICT.value, since_s=now - 3600)
        hourly = max(0, policy.max_requeues_per_hour - done)
        left = hourly if left is None else min(left, hourly)
    return left
