"""What a plan asks for, as intents: what is written down before Slurm is asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from slurmext.model.cluster import JobRecord
from slurmext.model.plan import Plan
from slurmext.model.policy import Policy
from slurmext.model.state import ActionKind, ActionRecord, ActionState, Intent, StoredFence
from slurmext.policy.explain.leaving import why_evicted, why_moved
from slurmext.service.observe import Known, Observation

log = logging.getLogger(__name__)

MOST_PLACED = 40
"""Jobs of several sizes that start at once are told where, up to so many: placing 40 takes a third of a second."""
SETTLE_S = 2.0
"""While a job released without a node list has not started, where GPUs are free is a guess: nothing is evicted on a
guess, but no longer than this, since a job that Slurm cannot start must not stand in the way of a guarantee."""


def intents_of(
    plan: Plan,
    observation: Observation,
    policy: Policy,
    open_actions: Sequence[ActionRecord],
    *,
    now: float,
    guard_s: float,
    requeues_left: int | None,
) -> list[Intent]:
    """Holds of stray jobs, evictions within the requeue budget, releases. Times in Unix seconds."""
    plan = _settled(plan, open_actions, now)
    return [
        *_holds(observation, now + guard_s),
        *_evictions(plan, observation, policy, open_actions, requeues_left),
        *_releases(plan, observation, open_actions),
    ]


def fences_of(
    plan: Plan, observation: Observation, open_actions: Sequence[ActionRecord], now: float
) -> list[StoredFence]:
    """The fences the plan keeps, as the store has them."""
    return [
        StoredFence(
            beneficiary=observation.known[fence.beneficiary].key,
            placement={part.node: part.gpus for part in fence.placement},
            created_s=now,
        )
        for fence in _settled(plan, open_actions, now).fence
        if fence.beneficiary in observation.known
    ]


def _settled(plan: Plan, open_actions: Sequence[ActionRecord], now: float) -> Plan:
    """The plan, without evictions for others while a release is unsettled."""
    if not any(_unsettled(action, now) for action in open_actions):
        return plan
    promised = {evict.beneficiary for evict in plan.evict} | {move.beneficiary for move in plan.move}
    fence = tuple(fence for fence in plan.fence if fence.beneficiary not in promised)
    return replace(plan, evict=tuple(evict for evict in plan.evict if not evict.beneficiary), move=(), fence=fence)


def _unsettled(action: ActionRecord, now: float) -> bool:
    """A release whose job Slurm is about to start, nobody knows where."""
    return (
        action.kind is ActionKind.RELEASE
        and action.state in {ActionState.INTENT, ActionState.RELEASED}
        and not action.detail.get("nodes")
        and now - action.created_s < SETTLE_S
    )


def _evictions(
    plan: Plan,
    observation: Observation,
    policy: Policy,
    open_actions: Sequence[ActionRecord],
    left: int | None,
) -> list[Intent]:
    """Intents of the plan's evictions and moves, whole sets only, within the budget.

    Who leaves for nobody in particular is a set of its own.
    """
    going = {action.job for action in open_actions if action.kind is ActionKind.EVICT}
    sets = dict[tuple[str, str], list[Intent]]()
    leaving = [
        *((e.job, e.beneficiary, e.reason, e.lost_gpu_s, why_evicted(e)) for e in plan.evict),
        *((m.job, m.beneficiary, m.reason, 0.0, why_moved(m)) for m in plan.move),
    ]
    for job, beneficiary, reason, lost, message in leaving:
        known = observation.known[job]
        if known.key not in going:
            going.add(known.key)  # who shrinks for several leaves once, and comes back with what is left
            to_queue = observation.known[beneficiary].queue or "" if beneficiary else ""
            detail = _leave(known, beneficiary, to_queue, float(lost), float(policy.settings.grace_s))
            intent = Intent(kind=ActionKind.EVICT, job=known.key, reason=reason.value, message=message, detail=detail)
            sets.setdefault((beneficiary, "" if beneficiary else job), []).append(intent)
    intents = list[Intent]()
    for (beneficiary, _), victims in sets.items():
        if left is not None and len(victims) > left - len(intents):
            if beneficiary:
                log.info("job %s waits: its %d victims are over the requeue budget", beneficiary, len(victims))
            continue
        intents += victims
    return intents


def _leave(known: Known, beneficiary: str, to_queue: str, lost_gpu_s: float, grace_s: float) -> dict[str, object]:
    record = known.record
    return {
        "beneficiary": beneficiary,
        "from_queue": known.queue or "",
        "to_queue": to_queue,
        "gpus": record.tasks * record.gpus_per_task,
        "lost_gpu_s": lost_gpu_s,
        "user": record.user,
        "start_s": record.start_s,
        "ckpt": record.annotation.ckpt if record.annotation else None,
        "grace_s": grace_s,
    }


def _holds(observation: Observation, guarded_until_s: float) -> list[Intent]:
    return [
        Intent(
            kind=ActionKind.HOLD,
            job=known.key,
            reason="ADOPT",
            message="held: its queue decides when it starts",
            detail={"guarded": True} if _guarded(known.record, guarded_until_s) else {},
        )
        for known in observation.known.values()
        if known.stray
    ]


def _guarded(record: JobRecord, until_s: float) -> bool:
    """Whether the job's begin time is the guard's; a later one is its user's own --begin."""
    by_user = record.annotation is not None and record.annotation.user_hold
    return by_user and (record.eligible_s or 0) <= until_s


def _releases(plan: Plan, observation: Observation, open_actions: Sequence[ActionRecord]) -> list[Intent]:
    """Releases carry a node list only where one is needed: a fence stands or a job released to a place has not started
    yet, GPU types were chosen, models are brought there, a gang was cut, a total was spread, or jobs of several sizes
    start at once: Slurm may put the small ones where only the large one fits.
    """
    fenced = bool(plan.fence or observation.snapshot.fences) or any(
        action.kind is ActionKind.RELEASE and action.detail.get("nodes") and action.detail.get("placement")
        for action in open_actions
    )
    jobs = {job.id: job for job in observation.snapshot.jobs}
    mixed = _are_mixed(plan, open_actions)
    intents = list[Intent]()
    for release in plan.release:
        known, job = observation.known[release.job], jobs[release.job]
        placement = {part.node: part.gpus for part in release.placement}
        shrunk = sum(placement.values()) < job.gpus
        note = known.record.annotation
        asked = note is not None and bool(note.types or note.preload)
        spread = known.record.total and len(placement) > 1  # Slurm might take other GPUs, on more nodes
        pinned = (fenced or mixed or asked or shrunk or spread) and not known.first_nodes
        intents.append(
            Intent(
                kind=ActionKind.RELEASE,
                job=known.key,
                reason=release.queue_usage.value,
                message=f"on {release.queue_usage.value} GPUs of {known.queue}",
                detail={
                    "placement": placement,
                    "nodes": sorted(placement) if pinned else [],
                    "node_count": len(placement) if shrunk else None,
                },
            )
        )
    return intents


def _are_mixed(plan: Plan, open_actions: Sequence[ActionRecord]) -> bool:
    """Whether jobs that take different numbers of GPUs on a node are to start together.

    Not where very many start at once: each place costs a call.
    """
    waiting = [
        cast("Mapping[str, int]", action.detail.get("placement") or {})
        for action in open_actions
        if action.kind is ActionKind.RELEASE and not action.state.final
    ]
    sizes = {part.gpus for release in plan.release for part in release.placement}
    sizes |= {gpus for placement in waiting for gpus in placement.values()}
    return len(sizes) > 1 and len(plan.release) + len(waiting) <= MOST_PLACED
