"""`plan(snapshot) -> Plan`: who starts now, who must go for whom, and why everybody else waits.

Order of admission, and why no other order keeps the contract:

1. Jobs that GPUs were already fenced for, so that nobody gets in between.
2. Demand within its own queue's guarantee, then demand within the guarantee of a queue above it. Whoever evicts is
   asked before whoever borrows, so what victims leave behind can only go to the one they left for.
3. Borrowers, towards the weighted fair share.

Each job is asked once; what is idle and what is allowed only shrink during a round, so nobody who was refused would
fit at the end: that is what makes the plan work-conserving.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from slurmext.model.job import Job, JobState, Placement
from slurmext.model.plan import EvictAction, Plan, Reason
from slurmext.model.snapshot import Snapshot
from slurmext.policy.order import RankOf, Tournament, by_borrowing, by_guarantee, sorted_jobs
from slurmext.policy.round import HOLDING, Standing
from slurmext.policy.settlement import Settlement
from slurmext.policy.victims import shrunk
from slurmext.policy.waiting import reason_for

PROMISE_ROUNDS = 4
"""How often plans are made again without the evictions that would not help, before evictions are left out."""


def plan(snapshot: Snapshot) -> Plan:
    """The one plan for this snapshot, whatever the order of its lists. Pure and total.

    A plan that evicts is simulated to the end: victims gone, would each beneficiary start? Those that would not lose
    the right to disturb anybody, and the plan is made again.
    """
    if all(job.state is not JobState.PENDING for job in snapshot.jobs):
        return Plan()
    barred: set[str] = set()
    for _ in range(PROMISE_ROUNDS):
        made = _round(snapshot, _all_but(frozenset(barred)))
        broken = _broken_promises(snapshot, made)
        if not broken:
            return made
        barred |= broken
    return _round(snapshot, lambda _: False)


def _all_but(barred: frozenset[str]) -> Callable[[str], bool]:
    return lambda job_id: job_id not in barred


def _broken_promises(snapshot: Snapshot, made: Plan) -> set[str]:
    """Beneficiaries that would not start although their victims are gone, or not where GPUs are kept for them."""
    if not made.evict and not made.move:
        return set()
    later = aftermath(snapshot, made)
    after = _round(later, _all_but(frozenset()))
    started = {release.job for release in after.release}
    named = {evict.beneficiary for evict in made.evict} | {move.beneficiary for move in made.move}
    return (named - started) | (named & _kept_twice(later, made))


def _kept_twice(later: Snapshot, made: Plan) -> set[str]:
    """Beneficiaries of fences on nodes where more is kept than shrinking jobs leave."""
    if all(evict.action is not EvictAction.SHRINK for evict in made.evict):
        return set()
    free = {node.name: node.gpus for node in later.nodes}
    held = [part for job in later.jobs if job.state in HOLDING for part in job.placement]
    for part in (*held, *(part for fence in made.fence for part in fence.placement)):
        free[part.node] = free.get(part.node, 0) - part.gpus
    return {fence.beneficiary for fence in made.fence if any(free[part.node] < 0 for part in fence.placement)}


def aftermath(snapshot: Snapshot, made: Plan) -> Snapshot:
    """The world right after the plan: released jobs run, victims are back in their queues, nothing is completing.

    Its fences are forgotten unless they are known to stand: a promise must hold by order of admission alone.
    """
    released = {release.job: release for release in made.release}
    taken = {evict.job for evict in made.evict if evict.action is EvictAction.SHRINK}
    kept_for: dict[str, dict[str, int]] = {}
    for fence in made.fence:
        kept_for[fence.beneficiary] = {part.node: part.gpus for part in fence.placement}
    gone = {evict.job for evict in made.evict if evict.action is not EvictAction.SHRINK}
    moved = {move.job: move.target for move in made.move}
    jobs: list[Job] = []
    for job in snapshot.jobs:
        if job.id in released:
            placement = released[job.id].placement
            jobs.append(replace(job, state=JobState.RUNNING, placement=placement, started_s=snapshot.now_s))
        elif job.id in gone or (job.evicting_for is not None and job.state is JobState.RUNNING):
            requeued = replace(
                job,
                state=JobState.PENDING,
                placement=(),
                started_s=None,
                preempted=job.preempted + 1,
                evicting_for=None,
            )
            jobs.append(requeued)
        elif job.id in moved:
            jobs.append(replace(job, placement=moved[job.id], started_s=snapshot.now_s))
        elif job.id in taken:
            shares = [(e.tasks, kept_for.get(e.beneficiary, {})) for e in made.evict if e.job == job.id]
            jobs.append(replace(job, placement=shrunk(job, shares)))
        elif job.state is not JobState.COMPLETING:
            jobs.append(job)
    return replace(snapshot, jobs=tuple(jobs), fences=made.fence if snapshot.settings.fences_stand else ())


def _round(snapshot: Snapshot, may_disrupt: Callable[[str], bool]) -> Plan:
    state = Settlement(snapshot, may_disrupt=may_disrupt)
    waiting = _eligible(state)
    waiting = _fenced_first(state, waiting)
    lasting = state.ledger.lasting
    ranks: tuple[tuple[Standing, RankOf], ...] = (
        (Standing.FULL, by_guarantee(lasting)),
        (Standing.OWN, by_guarantee(lasting)),
        (Standing.CLAIM, by_borrowing(lasting)),
        (Standing.BORROW, by_borrowing(lasting)),
    )
    if state.tree.typed:
        waiting = _own_types_first(state, waiting, by_guarantee(lasting))
    for standing, rank in ranks:
        waiting = _ask_all(state, waiting, standing, rank)
    for _ in range(PROMISE_ROUNDS):
        if not state.drop_spare_victims(ask_again=True):
            break
        _ask_again(state, ranks)
    else:
        state.drop_spare_victims(ask_again=False)
    for _ in range(PROMISE_ROUNDS):
        if not state.grow():
            break
        _ask_again(state, ranks)
    state.write_promises()
    for job_id, job in state.pending.items():
        if job_id in state.reasons and state.reasons[job_id] is Reason.NO_FREE_GPUS:
            state.reasons[job_id] = reason_for(state, job)
    started = {release.job for release in state.release}
    reasons = {job_id: state.reasons[job_id] for job_id in sorted(state.pending) if job_id not in started}
    return Plan(
        release=tuple(sorted(state.release, key=lambda release: release.job)),
        evict=tuple(sorted(state.evict, key=lambda evict: (evict.beneficiary, evict.job))),
        move=tuple(sorted(state.move, key=lambda move: (move.beneficiary, move.job))),
        fence=tuple(sorted(state.fence, key=lambda fence: fence.beneficiary)),
        reasons=reasons,
    )


def _eligible(state: Settlement, *, tell: bool = True) -> dict[int, list[Job]]:
    """Pending jobs per leaf in their queue's order; with `tell` those nobody can start get their reason."""
    by_leaf: dict[int, list[Job]] = {}
    now_s = state.snapshot.now_s
    for job in state.pending.values():
        leaf = state.tree.leaf_of.get(job.queue)
        later = job.blocked is not None or (job.eligible_s is not None and job.eligible_s > now_s)
        if leaf is None or later:
            if tell:
                state.reasons[job.id] = Reason.UNKNOWN_QUEUE if leaf is None else Reason.NOT_ELIGIBLE
        else:
            by_leaf.setdefault(leaf, []).append(job)
    users: dict[int, dict[str, int]] = {}
    for job in state.snapshot.jobs:
        leaf = state.tree.leaf_of.get(job.queue)
        if leaf in by_leaf and job.state is not JobState.PENDING:
            counts = users.setdefault(leaf, {})
            counts[job.user] = counts.get(job.user, 0) + job.placed_gpus
    return {
        leaf: sorted_jobs(jobs, state.tree.nodes[leaf].job_sort, users.get(leaf, {}))
        for leaf, jobs in sorted(by_leaf.items())
    }


def _fenced_first(state: Settlement, waiting: dict[int, list[Job]]) -> dict[int, list[Job]]:
    """Serve those with a standing fence or an eviction under way; returns everybody else."""
    fences = {f.beneficiary: f.placement for f in state.snapshot.fences if f.beneficiary in state.pending}
    evicting = {job.evicting_for for job in state.snapshot.jobs if job.state is JobState.RUNNING}
    first = {job_id for job_id in (*fences, *evicting) if job_id is not None}
    if not first:
        return waiting
    chosen = [(leaf, job) for leaf, jobs in waiting.items() for job in jobs if job.id in first]
    for leaf, job in sorted(chosen, key=lambda pair: (state.standing(*pair), pair[1].submitted_s, pair[1].id)):
        _ask(state, leaf, job, state.standing(leaf, job), fences.get(job.id, ()))
    return {leaf: [job for job in jobs if job.id not in first] for leaf, jobs in waiting.items()}


def _own_types_first(state: Settlement, waiting: dict[int, list[Job]], rank: RankOf) -> dict[int, list[Job]]:
    """Start who fits on idle GPUs of a type it is guaranteed, before anybody falls back to a type of others."""
    left: dict[int, list[Job]] = {}
    tournament = Tournament(state.tree, waiting, rank)
    while (found := tournament.next()) is not None:
        leaf, job = found
        if state.start_on_own_type(leaf, job):
            tournament.moved(leaf)
        else:
            left.setdefault(leaf, []).append(job)
    return left


def _ask_all(
    state: Settlement, waiting: dict[int, list[Job]], standing: Standing, rank: RankOf
) -> dict[int, list[Job]]:
    """Ask every waiting job of this standing; returns those of weaker standing."""
    weaker: dict[int, list[Job]] = {}
    tournament = Tournament(state.tree, waiting, rank)
    while (found := tournament.next()) is not None:
        leaf, job = found
        if standing is not Standing.BORROW and state.standing(leaf, job) > standing:
            weaker.setdefault(leaf, []).append(job)
        elif _ask(state, leaf, job, standing):
            tournament.moved(leaf)
    return weaker


def _ask_again(state: Settlement, ranks: tuple[tuple[Standing, RankOf], ...]) -> None:
    """Ask who has nothing yet, now that victims were let off: their queues may give again, kept GPUs are idle."""
    settled = {release.job for release in state.release} | state.waits_for_gpus()
    waiting = {
        leaf: [job for job in jobs if job.id not in settled] for leaf, jobs in _eligible(state, tell=False).items()
    }
    for standing, rank in ranks:
        waiting = _ask_all(state, waiting, standing, rank)


def _ask(state: Settlement, leaf: int, job: Job, standing: Standing, wanted: Placement = ()) -> bool:
    """Do for the job the gentlest thing that helps; True when it starts or is promised GPUs."""
    evicting = state.promised(job)
    why = state.start(leaf, job, standing, wanted)
    if why is None:
        return True
    state.reasons[job.id] = why
    if (standing is not Standing.BORROW or evicting) and state.wait(leaf, job, evicting=evicting, wanted=wanted):
        return True
    if not state.may_disrupt(job.id) or why is Reason.USER_MAX:
        return False
    if state.delayed(leaf, job):
        return False
    if why is Reason.NO_FREE_GPUS and state.consolidate(leaf, job, standing):
        return True
    if standing is not Standing.BORROW and state.reclaim(leaf, job):
        return True
    return state.preempt(leaf, job)
