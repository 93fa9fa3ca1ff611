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

from collections.abc import Collection, Container
from dataclasses import replace

from slurmext.model.job import HOLDING, Job, JobState, Placement
from slurmext.model.plan import EvictAction, Plan, Reason
from slurmext.model.snapshot import Snapshot
from slurmext.policy.caps import CAP_REASONS, over_caps
from slurmext.policy.counting import Count
from slurmext.policy.defragment import defragment
from slurmext.policy.departures import departures, told
from slurmext.policy.order import RankOf, Tournament, by_borrowing, by_guarantee
from slurmext.policy.round import Standing
from slurmext.policy.settlement import Settlement
from slurmext.policy.victims import shrunk
from slurmext.policy.waiting import reason_for

Rows = dict[int, list[list[Job]]]
"""Pending jobs per leaf, in rows of jobs that are alike."""

PROMISE_ROUNDS = 4
"""How often plans are made again without the evictions that would not help, before evictions are left out."""


def plan(snapshot: Snapshot) -> Plan:
    """The one plan for this snapshot, whatever the order of its lists. Pure and total.

    Who leaves for nobody in particular is settled first. A plan that evicts is simulated to the end: victims gone,
    would each beneficiary start? Those that would not lose the right to disturb anybody, and the plan is made again.
    """
    return plan_counted(Count(snapshot))


class Planner:
    """`plan()` for one snapshot after the other: what did not change since the last one is not counted again."""

    def __init__(self) -> None:
        self._count: Count | None = None

    def plan(self, snapshot: Snapshot) -> Plan:
        """The same as `plan(snapshot)`."""
        # While it is brought up to date a count is of no snapshot at all: an error must not leave it behind.
        before, self._count = self._count, None
        count = Count(snapshot) if before is None else before.follow(snapshot)
        self._count = count
        return plan_counted(count)


def plan_counted(count: Count) -> Plan:
    """`plan()` of the snapshot that was counted."""
    leaving = departures(count.snapshot, tree=count.tree, nodes=count.nodes)
    if leaving.evict:
        count = count.fork().follow(told(count.snapshot, leaving.evict))
    made = _for_those_who_wait(count)
    return replace(made, evict=leaving.evict + made.evict, note=leaving.note + made.note)


def _for_those_who_wait(count: Count) -> Plan:
    if not count.pending and count.snapshot.defragment is None:
        return Plan()
    barred: frozenset[str] = frozenset()
    for _ in range(PROMISE_ROUNDS):
        made = _round(count, barred)
        broken = _broken_promises(count, made)
        if not broken:
            return made
        barred |= broken
    return _round(count, None)


def _broken_promises(count: Count, made: Plan) -> set[str]:
    """Beneficiaries that would not start although their victims are gone, or not where GPUs are kept for them."""
    named = {evict.beneficiary for evict in made.evict} | {move.beneficiary for move in made.move if move.beneficiary}
    if not named:
        return set()
    later = aftermath(count.snapshot, made)
    after = _round(count.fork().follow(later), frozenset())
    started = {release.job for release in after.release}
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
                idle_since_s=None,
            )
            jobs.append(requeued)
        elif job.id in moved:
            jobs.append(replace(job, placement=moved[job.id], started_s=snapshot.now_s, idle_since_s=None))
        elif job.id in taken:
            shares = [(e.tasks, kept_for.get(e.beneficiary, {})) for e in made.evict if e.job == job.id]
            jobs.append(replace(job, placement=shrunk(job, shares)))
        elif job.state is not JobState.COMPLETING:
            jobs.append(job)
    return replace(snapshot, jobs=tuple(jobs), fences=made.fence if snapshot.settings.fences_stand else ())


def _round(count: Count, barred: Collection[str] | None) -> Plan:
    state = Settlement(count, barred=barred)
    waiting = _eligible(state)
    waiting = _fenced_first(state, waiting)
    lasting = state.ledger.lasting
    borrowing = by_borrowing(lasting, state.snapshot.past_gpus, state.snapshot.settings.past_factor)
    ranks: tuple[tuple[Standing, RankOf], ...] = (
        (Standing.FULL, by_guarantee(lasting)),
        (Standing.OWN, by_guarantee(lasting)),
        (Standing.CLAIM, borrowing),
        (Standing.BORROW, borrowing),
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
    if state.snapshot.defragment is not None:
        state.move += defragment(state, state.snapshot.defragment)
    _say_why_nothing_is_free(state)
    started = {release.job for release in state.release}
    reasons = {job_id: state.reasons[job_id] for job_id in sorted(state.pending) if job_id not in started}
    return Plan(
        release=tuple(sorted(state.release, key=lambda release: release.job)),
        evict=tuple(sorted(state.evict, key=lambda evict: (evict.beneficiary, evict.job))),
        move=tuple(sorted(state.move, key=lambda move: (move.beneficiary, move.job))),
        fence=tuple(sorted(state.fence, key=lambda fence: fence.beneficiary)),
        note=tuple(sorted(state.notes, key=lambda note: note.job)),
        reasons=reasons,
    )


def _say_why_nothing_is_free(state: Settlement) -> None:
    known: dict[tuple[object, ...], Reason] = {}
    for job_id, reason in state.reasons.items():
        if reason is Reason.NO_FREE_GPUS:
            job = state.pending[job_id]
            form = (job.least_tasks, job.gpus_per_task, job.tasks_per_node, job.types)
            if form not in known:
                known[form] = reason_for(state, job)
            state.reasons[job_id] = known[form]


def _eligible(state: Settlement, *, tell: bool = True) -> Rows:
    """Pending jobs per leaf in their queue's order; with `tell` those nobody can start get their reason."""
    now_s = state.snapshot.now_s
    found: Rows = {}
    for leaf in sorted(state.count.waiting):
        for row in state.count.in_order(leaf):
            # The jobs of a row are blocked, or eligible later, alike.
            if row[0].blocked is not None or (row[0].eligible_s is not None and row[0].eligible_s > now_s):
                if tell:
                    state.reasons |= dict.fromkeys((job.id for job in row), Reason.NOT_ELIGIBLE)
            else:
                found.setdefault(leaf, []).append(row)
    if tell:
        for job in state.pending.values():
            if job.queue not in state.tree.leaf_of:
                state.reasons[job.id] = Reason.UNKNOWN_QUEUE
    return _within_caps(state, found, tell=tell)


def _within_caps(state: Settlement, found: Rows, *, tell: bool) -> Rows:
    """Without those of whom Slurm would start no more: as many are asked as could start, so no step may start more."""
    capped = [job for rows in found.values() for row in rows if row[0].caps for job in row]
    if not capped:
        return found
    over = over_caps(capped, state.count.capped, _promised_before(state))
    if tell:
        state.reasons |= {job_id: CAP_REASONS[cap.kind] for job_id, cap in over.items()}
    return {leaf: _without(rows, over) for leaf, rows in found.items()}


def _without(rows: list[list[Job]], left_out: Container[str]) -> list[list[Job]]:
    """Rows without some of their jobs."""
    return [kept for row in rows if (kept := [job for job in row if job.id not in left_out])]


def _promised_before(state: Settlement) -> set[str]:
    """Jobs with a standing fence or an eviction under way."""
    fenced = {fence.beneficiary for fence in state.snapshot.fences if fence.beneficiary in state.pending}
    evicting = {job.evicting_for for job in state.count.evicting.values() if job.state is JobState.RUNNING}
    return fenced | {job_id for job_id in evicting if job_id is not None}


def _fenced_first(state: Settlement, waiting: Rows) -> Rows:
    """Serve those with a standing fence or an eviction under way; returns everybody else."""
    fences = {f.beneficiary: f.placement for f in state.snapshot.fences if f.beneficiary in state.pending}
    first = _promised_before(state)
    if not first:
        return waiting
    state.owed |= first
    chosen = [(leaf, job) for leaf, rows in waiting.items() for row in rows for job in row if job.id in first]
    for leaf, job in sorted(chosen, key=lambda pair: (state.standing(*pair), pair[1].submitted_s, pair[1].id)):
        _ask(state, leaf, job, state.standing(leaf, job), fences.get(job.id, ()))
    return {leaf: _without(rows, first) for leaf, rows in waiting.items()}


def _own_types_first(state: Settlement, waiting: Rows, rank: RankOf) -> Rows:
    """Start who fits on idle GPUs of a type it is guaranteed, before anybody falls back to a type of others."""
    left: Rows = {}
    tournament = Tournament(state.tree, waiting, rank)
    while (found := tournament.next()) is not None:
        leaf, job = found
        if state.start_on_own_type(leaf, job):
            tournament.moved(leaf)
        else:
            left.setdefault(leaf, []).append([job, *tournament.rest(leaf)])
    return left


def _ask_all(state: Settlement, waiting: Rows, standing: Standing, rank: RankOf) -> Rows:
    """Ask every waiting job of this standing; returns those of weaker standing."""
    weaker: Rows = {}
    tournament = Tournament(state.tree, waiting, rank)
    while (found := tournament.next()) is not None:
        leaf, job = found
        if standing is not Standing.BORROW and state.standing(leaf, job) > standing:
            weaker.setdefault(leaf, []).append([job, *tournament.rest(leaf)])
        elif _ask(state, leaf, job, standing):
            tournament.moved(leaf)
        elif state.all_alike(leaf):
            # Nothing happened, so whoever is like it and comes next is refused for the same reason.
            why = state.reasons[job.id]
            state.reasons |= dict.fromkeys((other.id for other in tournament.rest(leaf)), why)
    return weaker


def _ask_again(state: Settlement, ranks: tuple[tuple[Standing, RankOf], ...]) -> None:
    """Ask who has nothing yet, now that victims were let off: their queues may give again, kept GPUs are idle."""
    settled = {release.job for release in state.release} | state.waits_for_gpus()
    waiting: Rows = {leaf: _without(rows, settled) for leaf, rows in _eligible(state, tell=False).items()}
    for standing, rank in ranks:
        waiting = _ask_all(state, waiting, standing, rank)


def _ask(state: Settlement, leaf: int, job: Job, standing: Standing, wanted: Placement = ()) -> bool:
    """Do for the job the gentlest thing that helps; True when it starts or is promised GPUs."""
    evicting = state.promised(job)
    why = state.start(leaf, job, standing, wanted)
    if why is None:
        return True
    state.reasons[job.id] = why
    if why is Reason.PRE_DRAIN:
        least = {"": job.least_tasks * job.gpus_per_task}
        state.reasons[job.id] = state.ledger.over_limit(state.ledger.held, leaf, job, least) or why
        return False
    if (standing is not Standing.BORROW or evicting) and state.wait(leaf, job, evicting=evicting, wanted=wanted):
        return True
    if not state.may_disrupt(job) or why in {Reason.USER_MAX, Reason.GROUP_MAX}:
        return False
    if state.delayed(leaf, job):
        return False
    # Nobody is restarted for a borrower: a gang that got its nodes that way would hold them while many small jobs wait.
    if standing is not Standing.BORROW:
        if why is Reason.NO_FREE_GPUS and state.consolidate(leaf, job, standing):
            return True
        if state.reclaim(leaf, job):
            return True
        if why is Reason.NO_FREE_GPUS and state.exchange(leaf, job):
            return True
    return state.preempt(leaf, job)
