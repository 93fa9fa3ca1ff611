"""Why a job that quotas would let start has no place: the one dominant reason, and the numbers that go with it."""

from __future__ import annotations

from slurmext.model.amounts import amount, counted
from slurmext.model.plan import Reason
from slurmext.model.slicing import GpuUse, SliceJob
from slurmext.policy.slicing.cards import FULL_PCT, Card, Tenant
from slurmext.policy.slicing.desk import Desk
from slurmext.policy.slicing.finder import TURN, Request
from slurmext.policy.slicing.gradient import shares_in
from slurmext.policy.slicing.kinds import GPU_PARTS
from slurmext.policy.slicing.needs import asked


def why_not(desk: Desk, job: SliceJob, requests: list[Request]) -> tuple[Reason, str]:
    """The dominant reason and its detail."""
    need = job.need
    what = f"{need.per_node} x {asked(need)}" + (f" on each of {need.nodes} nodes" if need.nodes > 1 else "")
    if desk.yard.unknown and not any(host.cards for host in desk.yard.hosts):
        return Reason.UNKNOWN_STATE, "what the GPUs are used for is not known"
    if any(_hosts(desk, job, request, holds=True, closed=True, beside=True) for request in requests):
        return Reason.SLICE_POOL, f"other GPUs could hold {what}, but the policy lets no more be cut now"
    held = any(_hosts(desk, job, request, holds=False, closed=False, beside=True) for request in requests)
    if held and desk.hold:
        ahead = ", ".join(sorted({hold.job for hold in desk.hold} - {job.id})[:3])
        return Reason.SLICE_HELD, f"{what} would fit, but for places held for {ahead}"
    if any(_hosts(desk, job, request, holds=True, closed=False, beside=False) for request in requests):
        return Reason.SLICE_NODE, (
            f"{what} would fit, but not with {counted(job.cpus, 'CPU')} and {job.memory_per_node_mib} MiB of memory on"
            " the node"
        )
    free = _free(desk, requests)
    wanted = desk.shadows[job.id].gpus
    numbers = f"{what} counts {counted(wanted / GPU_PARTS, 'GPU')}, {amount(free / GPU_PARTS)} are free in pieces"
    if free >= wanted:
        return Reason.SLICE_FRAGMENTED, numbers
    return Reason.SLICE_FULL, numbers


def _hosts(desk: Desk, job: SliceJob, request: Request, *, holds: bool, closed: bool, beside: bool) -> bool:
    """Whether enough hosts have room for the request, with holds, pools and CPUs in force or not."""
    found = 0
    for host in desk.yard.hosts:
        if request.candidates and host.name not in request.candidates:
            continue
        if beside and not host.has(request.cpus, request.memory_mib):
            continue
        room = sum(
            _room(card, request, holds=holds) for card in host.cards if not card.closing or (closed and not card.owed)
        )
        found += room >= request.per_node
    return found >= job.need.nodes


def _room(card: Card, request: Request, *, holds: bool) -> int:
    number = card.card_type.number
    if card.use not in {None, request.use} and not (card.empty and card.stage < TURN):
        return 0
    mig, shared = card.mig, card.shared
    if not holds:
        mig, shared = card.taken_by(_there(card))
    if request.use is GpuUse.SHARED:
        size = request.wish.shares.get(number)
        return shares_in(FULL_PCT - shared.percent, card.card_type.memory_mib - shared.memory_mib, size)
    profile = request.wish.profiles.get(number)
    return 0 if card.kind is None or profile is None else card.kind.count(mig, profile)


def _there(card: Card) -> list[Tenant]:
    return [tenant for tenant in card.tenants if not tenant.hold]


def _free(desk: Desk, requests: list[Request]) -> int:
    """Parts free on cards that the requests could use."""
    free = 0
    for host in desk.yard.hosts:
        for card in host.cards:
            number = card.card_type.number
            for request in requests:
                if card.use is not request.use or card.closing:
                    continue
                if request.use is GpuUse.SHARED and number in request.wish.shares:
                    memory = card.card_type.memory_mib
                    left = (memory - card.shared.memory_mib) * GPU_PARTS // (memory or 1)
                    free += max(0, min((FULL_PCT - card.shared.percent) * GPU_PARTS // FULL_PCT, left))
                elif request.use is GpuUse.MIG and number in request.wish.profiles and card.kind is not None:
                    allowed = card.kind.allows(card.mig, request.wish.profiles[number])
                    free += card.kind.free_parts(card.mig) if allowed else 0
    return free
