"""Jobs that are moved, or that give back what their queues borrowed: what is written down before Slurm is asked."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from slurmext.model.plan import Reason
from slurmext.model.slicing import SlicePlan
from slurmext.model.state import ActionKind, ActionRecord, Intent, JobKey
from slurmext.service.observe import Known, Observation

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaving:
    job: str
    beneficiary: str
    reason: Reason
    why: str
    lost_gpu_s: float
    gpus: int = 0


def leaving(
    plan: SlicePlan, observation: Observation, going: Collection[JobKey], *, grace_s: float, left: int | None
) -> tuple[list[Intent], frozenset[str]]:
    """Intents of evictions and moves, each job once, and for whom nobody leaves: their sets are over the budget of
    `left` requeues. `going` are under way already.
    """
    sets = dict[str, list[Intent]]()
    seen = set(going)
    for each in _each(plan):
        known = observation.known.get(each.job)
        if known is not None and known.key not in seen:
            seen.add(known.key)
            sets.setdefault(each.beneficiary, []).append(_intent(each, known, observation, grace_s))
    intents, refused = list[Intent](), set[str]()
    for beneficiary, victims in sets.items():
        if left is not None and len(victims) > left - len(intents):
            log.info("job %s waits: the %d jobs in its way are over the requeue budget", beneficiary, len(victims))
            refused.add(beneficiary)
        else:
            intents += victims
    return intents, frozenset(refused)


def _each(plan: SlicePlan) -> Iterator[_Leaving]:
    for evict in plan.evict:
        what = "slice" if not evict.gpus else "GPU" if evict.gpus == 1 else "GPUs"
        yield _Leaving(job=evict.job, beneficiary=evict.beneficiary, reason=evict.reason,
                       why=f"its queue borrowed the {what}", lost_gpu_s=evict.lost_gpu_s, gpus=evict.gpus)  # fmt: skip
    for move in plan.move:
        yield _Leaving(job=move.job, beneficiary=move.beneficiary, reason=Reason.DEFRAGMENT,
                       why="moved so that a larger slice fits", lost_gpu_s=move.cost_gpu_s)  # fmt: skip


def _intent(leaves: _Leaving, known: Known, observation: Observation, grace_s: float) -> Intent:
    record = known.record
    to = observation.known.get(leaves.beneficiary)
    return Intent(
        kind=ActionKind.EVICT,
        job=known.key,
        reason=leaves.reason.value,
        message=f"{leaves.why} (job {leaves.beneficiary})" if leaves.beneficiary else leaves.why,
        detail={
            "beneficiary": leaves.beneficiary,
            "from_queue": known.queue or "",
            "to_queue": (to.queue or "") if to is not None else "",
            "gpus": leaves.gpus,
            "lost_gpu_s": float(leaves.lost_gpu_s),
            "user": record.user,
            "start_s": record.start_s,
            "ckpt": record.annotation.ckpt if record.annotation else None,
            "grace_s": grace_s,
        },
    )


def beneficiaries(actions: Collection[ActionRecord]) -> frozenset[str]:
    """Jobs for whom others are leaving now."""
    return frozenset(
        str(action.detail["beneficiary"])
        for action in actions
        if action.kind is ActionKind.EVICT and action.detail.get("beneficiary")
    )
