"""Laws over successive looks at the world, which no single plan can show: what was promised did come true.

`OverTime` remembers what it must between the looks and forgets jobs that are gone. In a simulation a look is the
snapshot and its plan (`look_of`); on a live cluster what really runs comes from Slurm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from slurmext.model.job import Job, JobState, Seconds
from slurmext.model.node import NodeState
from slurmext.model.plan import EvictAction, Plan, QueueUsage, Reason
from slurmext.model.snapshot import Snapshot
from slurmext.policy.invariants.case import Case, summed
from slurmext.policy.tree import QueueNode

SLACK_S = 5.0
"""Guaranteed demand is served within the grace and this."""

_BEING_SERVED = frozenset({Reason.RECLAIMING, Reason.PREEMPTING, Reason.CONSOLIDATING})
"""Reasons to wait that end with the grace: GPUs are being made free for the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A job that is told to leave for another; `started_s` tells its runs apart."""

    job: str
    started_s: Seconds | None
    beneficiary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at the world. `running` maps jobs that hold their GPUs in Slurm to when they started; a job that was
    released and has not started is not there. `told` are the evictions under way. Submission and eligible times are
    rounded down to `rounded_s`.
    """

    snapshot: Snapshot
    plan: Plan
    running: Mapping[str, Seconds | None]
    told: Collection[Departure]
    rounded_s: float = 0


def look_of(snapshot: Snapshot, plan: Plan) -> Look:
    """A look where the snapshot is all there is and every plan is carried out."""
    running = {job.id: job.started_s for job in snapshot.jobs if job.state is JobState.RUNNING}
    leaving = [(job.id, job.evicting_for) for job in snapshot.jobs if job.evicting_for]
    leaving += [(evict.job, evict.beneficiary) for evict in plan.evict if evict.action is not EvictAction.SHRINK]
    leaving += [(move.job, move.beneficiary) for move in plan.move]
    told = [
        Departure(job=job, started_s=running.get(job), beneficiary=beneficiary)
        for job, beneficiary in leaving
        if beneficiary
    ]
    return Look(snapshot=snapshot, plan=plan, running=running, told=told)


@dataclass(slots=True)
class _Demand:
    """Guaranteed demand that is being served, since when, and how long that may take."""

    since_s: Seconds
    limit_s: Seconds
    told: bool = False


@dataclass(slots=True)
class _Debt:
    """What a job is owed for whom it made leave: which run of each victim, and when one was last seen to be there."""

    runs: dict[str, Seconds | None]
    there_s: Seconds
    told: bool = False


@dataclass(slots=True)
class OverTime:
    """What has to be remembered between looks. A limit, a guarantee or a node that changes starts promises anew."""

    _now_s: Seconds | None = None
    _given: tuple[object, ...] = ()
    _running: frozenset[str] = frozenset()
    _released: set[str] = field(default_factory=set[str])
    _demands: dict[str, _Demand] = field(default_factory=dict[str, _Demand])
    _debts: dict[str, _Debt] = field(default_factory=dict[str, _Debt])

    def look(self, look: Look) -> list[tuple[str, str]]:
        """Laws broken since the last look, each once, as (law, what breaks it). Looks come in the order of time."""
        case = Case(look.snapshot, look.plan)
        given = (
            tuple((node.key, node.guaranteed, node.max, tuple(node.type_max.items())) for node in case.tree.nodes),
            tuple(node.name for node in look.snapshot.nodes if node.state is NodeState.UP),
        )
        if given != self._given:
            self._demands.clear()
            self._debts.clear()
            self._released.clear()
            self._given, self._now_s = given, None
        self._note(look, case)
        laws = (
            ("no overcommit in reality", _overcommit(look, case)),
            ("never above max in reality", self._above_max(look, case)),
            ("guaranteed demand starts in time", self._late(look, case)),
            ("nobody leaves twice for the same job", self._again(look)),
            ("every beneficiary did start", self._left_alone(look, case)),
        )
        broken = [(law, detail) for law, found in laws for detail in found]
        self._remember(look, case)
        return broken

    def _note(self, look: Look, case: Case) -> None:
        """Demand of which this look is the first sign."""
        now_s = look.snapshot.now_s
        settings, reasons = look.snapshot.settings, look.plan.reasons
        ledger = case.ledger_now()
        ours = {release.job for release in look.plan.release if release.queue_usage is QueueUsage.GUARANTEED}
        for job_id in {job for job, reason in reasons.items() if reason in _BEING_SERVED} | ours:
            job = case.jobs.get(job_id)
            if job is None or job_id in self._demands or job.queue not in case.tree.leaf_of:
                continue
            leaf = case.tree.leaf_of[job.queue]
            node = case.tree.nodes[leaf]
            gpus = {"": job.least_tasks * job.gpus_per_task}
            if job_id in ours or case.tree.typed or leaf in ledger.claims(leaf, gpus):
                # Not from its submission on: it may have been in nobody's guarantee for hours.
                last_s = now_s if self._now_s is None else self._now_s
                times = (job.submitted_s + node.preemption_delay_s, job.eligible_s or 0)
                late = [at_s + look.rounded_s for at_s in times if at_s + look.rounded_s > last_s]
                since_s = max(late, default=now_s)
                limit_s = settings.grace_s + settings.near_end_s + SLACK_S
                self._demands[job_id] = _Demand(since_s=since_s, limit_s=limit_s)

    def _late(self, look: Look, case: Case) -> Iterator[str]:
        """Demand within its guarantee, for which GPUs are made free, runs within grace + 5 s."""
        for job_id, demand in self._demands.items():
            job = case.jobs.get(job_id)
            if job is None or demand.told:
                continue
            started_s = look.running.get(job_id)
            until_s = look.snapshot.now_s if started_s is None else started_s
            if until_s - demand.since_s > demand.limit_s:
                demand.told = True
                verb = "ran" if job_id in look.running else "waits"
                yield f"{job_id} of {job.queue} {verb} {until_s - demand.since_s:.1f} s (at most {demand.limit_s:g})"

    def _above_max(self, look: Look, case: Case) -> Iterator[str]:
        """No job that was let start is in a queue above its max."""
        started = [
            case.jobs[job]
            for job in look.running
            if job not in self._running and job in self._released and job in case.jobs
        ]
        if not started or self._now_s is None:
            return
        used = dict[tuple[int, str | None], int]()
        for job_id in look.running:
            for node in _lineage(case, job_id):
                for gpu_type, gpus in _held(case, job_id).items():
                    for kind in (None, gpu_type):
                        used[node.index, kind] = used.get((node.index, kind), 0) + gpus
        for job in started:
            for node in _lineage(case, job.id):
                limits = {None: node.max, **{kind: node.type_max.get(kind) for kind in _held(case, job.id)}}
                for kind, most in limits.items():
                    if most is not None and used.get((node.index, kind), 0) > most:
                        what = f"{used[node.index, kind]} {kind or 'GPUs'}"
                        yield f"{job.id} started: {node.path} holds {what} of max {most}"

    def _again(self, look: Look) -> Iterator[str]:
        """Nobody is evicted twice for a job that did not start in between."""
        for departure in look.told:
            debt = self._debts.setdefault(departure.beneficiary, _Debt(runs={}, there_s=look.snapshot.now_s))
            known = debt.runs.setdefault(departure.job, departure.started_s)
            if known != departure.started_s and departure.started_s is not None:
                debt.runs[departure.job] = departure.started_s
                yield f"{departure.job} leaves a second time for {departure.beneficiary}"

    def _left_alone(self, look: Look, case: Case) -> Iterator[str]:
        """Who others left for starts within grace + 5 s of the last one's leaving."""
        now_s = look.snapshot.now_s
        for beneficiary, debt in self._debts.items():
            job = case.jobs.get(beneficiary)
            if job is None or not _waits(job) or beneficiary in look.running or debt.told:
                continue
            if any(victim in look.running and look.running[victim] == run for victim, run in debt.runs.items()):
                debt.there_s = now_s
            elif now_s - debt.there_s > look.snapshot.settings.grace_s + SLACK_S:
                debt.told = True
                why = case.plan.reasons.get(beneficiary, "released")
                yield f"{beneficiary} waits ({why}) {now_s - debt.there_s:.1f} s after {', '.join(debt.runs)} left"

    def _remember(self, look: Look, case: Case) -> None:
        self._now_s, self._running = look.snapshot.now_s, frozenset(look.running)
        # A job that is handed over is released between two looks; its fence stands before.
        fresh = {release.job for release in look.plan.release} | {fence.beneficiary for fence in look.plan.fence}
        waiting = {job_id for job_id, job in case.jobs.items() if _waits(job) and job_id not in look.running}
        self._released = (self._released | fresh) & waiting
        self._demands = {
            job_id: demand
            for job_id, demand in self._demands.items()
            if job_id in waiting and case.plan.reasons.get(job_id, Reason.RECLAIMING) in _BEING_SERVED
        }
        self._debts = {job_id: debt for job_id, debt in self._debts.items() if job_id in waiting}


def _waits(job: Job) -> bool:
    """Whether a job that does not run still may: it is pending, or released (then the snapshot calls it running)."""
    return job.state in {JobState.PENDING, JobState.RUNNING} and job.blocked is None


def _lineage(case: Case, job_id: str) -> list[QueueNode]:
    """The job's queue and those above."""
    leaf = case.tree.leaf_of.get(case.jobs[job_id].queue) if job_id in case.jobs else None
    return [] if leaf is None else [case.tree.nodes[index] for index in case.tree.nodes[leaf].lineage]


def _held(case: Case, job_id: str) -> dict[str, int]:
    """GPUs per type."""
    return case.by_type((part.node, part.gpus) for part in case.jobs[job_id].placement)


def _overcommit(look: Look, case: Case) -> Iterator[str]:
    """What really runs fits on its nodes."""
    held = summed(
        (part.node, part.gpus) for job_id in look.running if job_id in case.jobs for part in case.jobs[job_id].placement
    )
    for node in look.snapshot.nodes:
        if held.get(node.name, 0) > node.gpus:
            yield f"{node.name}: {held[node.name]} GPUs in use of {node.gpus}"
