"""One cycle: observe, follow what is under way, plan, apply. Nothing is done when something could not be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from slurmext.config.policy import SitePolicy
from slurmext.model.cluster import ClusterView
from slurmext.model.job import JobState
from slurmext.model.plan import Plan
from slurmext.model.policy import Policy
from slurmext.model.snapshot import Snapshot
from slurmext.model.state import ActionKind, ActionRecord, ActionState, JobKey, PastUse
from slurmext.policy.explain import messages
from slurmext.policy.invariants.over_time import Look
from slurmext.policy.past_use import borrowed, faded
from slurmext.policy.planner import Planner
from slurmext.ports import Clock, ClusterReader, Store
from slurmext.service import chain
from slurmext.service.apply import Applier
from slurmext.service.failures import FailureWatch
from slurmext.service.idleness import remembered
from slurmext.service.job_rows import job_rows
from slurmext.service.limits import refusals
from slurmext.service.look import look_of
from slurmext.service.notices import first_told, notices_of, over
from slurmext.service.observe import Memory, Observation, observe
from slurmext.service.policies import Policies
from slurmext.service.slices.desk import SliceDesk, SliceResult
from slurmext.service.slices.memory import SliceMemory
from slurmext.service.staging.ahead import Decided
from slurmext.service.staging.desk import StageDesk
from slurmext.service.tidying import Tidying

log = logging.getLogger(__name__)

_PENALTY_S = 30.0
_LONGEST_PENALTY_S = 900.0
_PENALTY_MEMORY_S = 3600.0
_USE_EVERY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleResult:
    """What a cycle saw and did. Times in seconds; `began` counts actions begun, `open_actions` those under way.

    `evicting` counts victims whose beneficiary waits for us, `leaving` those whose beneficiary Slurm starts by itself.
    `ending` counts jobs that Slurm is cleaning up after: no agent tells when their GPUs are free. `next_s` is when the
    time alone will change something: a waiting job becomes eligible, a calendar changes, a running job must leave, a
    grace ends. None when nothing is known to.
    """

    at_s: float
    took_s: float
    jobs: int
    began: int
    open_actions: int
    evicting: int
    leaving: int
    ending: int
    next_s: float | None
    rpcs: int
    new_jobs: int


class Controller:
    """Runs cycles for the holder of a lease. Raises SlurmUnavailable, StoreUnavailable and StoreConflict."""

    def __init__(
        self,
        *,
        store: Store,
        reader: ClusterReader,
        applier: Applier,
        clock: Clock,
        shadow: bool = False,
        on_policy: Callable[[SitePolicy], None] = lambda _policy: None,
        groups_of: Callable[[str], Sequence[str]] = lambda _user: (),
        on_look: Callable[[Look], None] | None = None,
        on_view: Callable[[ClusterView], None] = lambda _view: None,
        slices: SliceDesk | None = None,
        staging: StageDesk | None = None,
    ) -> None:
        self._store, self._reader, self._applier, self._clock = store, reader, applier, clock
        self._shadow, self._groups_of = shadow, groups_of
        self._on_look, self._on_view = on_look, on_view
        self.slices = slices
        self.staging = staging
        self._policies = Policies(store, on_policy)
        self._planner = Planner()
        self._seen = frozenset[JobKey]()
        self._use_saved_s = 0.0
        self.tidying = Tidying()
        self.failures = FailureWatch(store)
        self.last: tuple[Observation, Plan] | None = None

    def run(self, token: int) -> CycleResult:
        """One cycle under the lease's token."""
        began_at = self._clock.now()
        policy, view, observation = self._look()
        before = self._store.open_actions()
        if before and not self._shadow:
            checkpoints = self._store.last_checkpoints({action.job.job_id for action in before})
            self._applier.follow(token, observation, checkpoints)
            # What was just finished or requeued changes the world: the plan looks at it anew.
            policy, view, observation = self._look()
        decided = self._planner.plan(observation.snapshot) if policy.version else Plan()
        self.tidying.saw(decided)
        said = dict(messages(observation.snapshot, decided))
        began, staged = 0, dict[str, str]()
        if self.staging is not None and not self._shadow:
            # Before the releases: a job that starts at once finds its nodes told what it wants.
            last = None if self.slices is None else self.slices.last
            seen = Decided(snapshot=observation.snapshot, plan=decided, slices=observation.slices, sliced=last)
            staged = self.staging.run(seen, view)
        if policy.version and not self._shadow:
            self._remember_use(token, observation.snapshot, policy)
            began = self._applier.start(token, decided, observation, policy)
            self._applier.rejoining.see(view)
            self._tell(token, decided, observation)
        sliced = SliceResult()
        if self.slices is not None and policy.version and not self._shadow:
            sliced = self.slices.run(token, policy, view, observation, decided)
            began += sliced.began
        if before and not self._shadow:
            self._applier.hold_requeued()
        reasons = {**decided.reasons, **sliced.reasons}
        said |= sliced.messages
        said |= {job: "; ".join(filter(None, (said.get(job), words))) for job, words in staged.items()}
        self._store.save_jobs(token, job_rows(observation, reasons, said, view.read_s))
        if policy.version and not self._shadow:
            self.failures.see(token, observation, view.read_s)
        self.last = observation, decided
        keys = frozenset(known.key for known in observation.known.values())
        new, self._seen = len(keys - self._seen), keys
        still_open = self._store.open_actions()
        released = {action.job.job_id for action in still_open if action.kind is ActionKind.RELEASE}
        victims = [action for action in still_open if action.kind is ActionKind.EVICT]
        leaving = sum(action.detail.get("beneficiary") in released for action in victims)
        if self._on_look is not None and policy.version and not self._shadow:
            self._on_look(look_of(view, observation, decided, victims))
        return CycleResult(
            at_s=began_at,
            took_s=self._clock.now() - began_at,
            jobs=len(keys),
            began=began,
            open_actions=len(still_open) + sliced.busy,
            evicting=sum(bool(action.detail.get("beneficiary")) for action in victims) - leaving,
            leaving=leaving,
            ending=sum(job.state is JobState.COMPLETING for job in view.jobs),
            next_s=_first(
                _next_time(observation.snapshot, decided),
                self.tidying.next_s(policy, self._clock.now()),
                self._applier.deadlines.next_s(still_open, began_at),
                chain.next_s(
                    observation, self._applier.linked, now=self._clock.now(), grace_s=float(policy.settings.grace_s)
                ),
            ),
            rpcs=view.rpcs,
            new_jobs=new,
        )

    def _remember_use(self, token: int, snapshot: Snapshot, policy: Policy) -> None:
        """Once a minute, what queues borrow goes into what they borrowed lately."""
        if policy.settings.past_factor and snapshot.now_s - self._use_saved_s >= _USE_EVERY_S:
            now_s = self._use_saved_s = float(snapshot.now_s)
            known = self._store.past_use()
            elapsed_s = now_s - max((use.at_s for use in known), default=now_s)
            past = {use.queue: use.gpus for use in known}
            uses = faded(past, borrowed(snapshot), elapsed_s, policy.half_life_s)
            self._store.save_past_use(token, [PastUse(queue=q, gpus=gpus, at_s=now_s) for q, gpus in uses.items()])

    def _tell(self, token: int, decided: Plan, observation: Observation) -> None:
        """Let owners of running jobs know what will happen to them."""
        standing = self._store.notices()
        notices = notices_of(decided.note, observation, standing, observation.snapshot.now_s)
        if frozenset(notices) == frozenset(standing):
            return
        self._store.replace_notices(token, notices)
        for event in over(standing, notices, decided, observation):
            self._store.record_event(event)
        for event, words in first_told(standing, notices, observation):
            self._store.record_event(event)
            if words:
                self._applier.notify(observation.known[event.job_id or ""].record, words)

    def slurm_id(self, raw_id: str) -> str:
        """The id Slurm's commands take of the job that calls itself `raw_id`: another one for tasks of arrays, that of
        the whole for components of heterogeneous jobs.
        """
        if self.last is None:
            return raw_id
        known, het = self.last[0].known.values(), self.last[0].het.values()
        whole = (job.record.slurm_id for job in het if any(part.raw_id == raw_id for part in job.record.components))
        found = next(whole, None) or next((job.record.slurm_id for job in known if job.record.raw_id == raw_id), None)
        return found or raw_id

    def raw_ids(self, slurm_id: str) -> Sequence[str]:
        """What the job that Slurm's commands call so calls itself: its SLURM_JOB_ID, one for each component."""
        known = self.last[0].find(slurm_id) if self.last else None
        if known is None:
            return (slurm_id,)
        return [part.raw_id or slurm_id for part in known.record.components or (known.record,)]

    def observation(self) -> Observation:
        """The world now, without acting on it."""
        return self._look()[2]

    def _look(self) -> tuple[Policy, ClusterView, Observation]:
        """Slurm as it is now, under the policy in force when it was asked."""
        self._policies.at(self._clock.now())  # a policy that cannot be read costs no reading of Slurm
        view = self._reader.read()
        self._on_view(view)
        policy = self._policies.at(view.read_s)
        observation = observe(view, policy, self._memory(policy, view), view.read_s, self._groups_of)
        if (wish := self.tidying.wish(policy, view.read_s)) is not None:
            observation = replace(observation, snapshot=replace(observation.snapshot, defragment=wish))
        return policy, view, observation

    def _memory(self, policy: Policy, view: ClusterView) -> Memory:
        now_s = view.read_s
        rows = {row.job.job_id: row for row in self._store.jobs(active=True)}
        preempted = self._store.preemption_counts([row.job for row in rows.values()])
        queues = (*policy.queues, *policy.dynamic.values())
        lately = self._store.actions(since_s=now_s - _PENALTY_MEMORY_S, limit=1000)
        return Memory(
            rows=rows,
            open_actions=self._store.open_actions(),
            checkpoints=self._store.last_checkpoints(rows.keys()),
            preempted=preempted,
            past_gpus={use.queue: use.gpus for use in self._store.past_use()} if policy.settings.past_factor else {},
            idleness=remembered(self._store, queues, preempted, now_s),
            fences=self._store.fences(),
            models={} if self.staging is None else self.staging.needs(view),
            slices=SliceMemory() if self.slices is None else self.slices.memory(now_s),
            not_before=_penalties(lately, now_s),
            refused=refusals(lately),
        )


def _first(*times: float | None) -> float | None:
    return min((at_s for at_s in times if at_s is not None), default=None)


def _next_time(snapshot: Snapshot, decided: Plan) -> float | None:
    """When the first thing happens that nobody tells us of."""
    pending = (job for job in snapshot.jobs if job.state is JobState.PENDING)
    times = [job.eligible_s for job in pending if job.eligible_s is not None]
    times += [queue.changes[0].at_s for queue in snapshot.queues if queue.changes]
    times += [note.at_s for note in decided.note]
    return min((float(at_s) for at_s in times if at_s > snapshot.now_s), default=None)


def _penalties(actions: list[ActionRecord], now_s: float) -> Mapping[JobKey, tuple[float, str]]:
    """Jobs that Slurm would not start when released: wait longer each time, so that they do not shut out others."""
    failures = dict[JobKey, list[ActionRecord]]()
    misplaced = set[JobKey]()
    for action in actions:
        refused = action.state is ActionState.REFUSED or bool(action.detail.get("not_started"))
        if action.detail.get("misplaced"):
            refused = action.job in misplaced  # once that is bad luck, twice there is something we do not see
            misplaced.add(action.job)
        if action.kind is ActionKind.RELEASE and refused:
            failures.setdefault(action.job, []).append(action)
    waits = dict[JobKey, tuple[float, str]]()
    for job, failed in failures.items():
        newest = max(failed, key=lambda action: action.changed_s)
        until = newest.changed_s + min(_PENALTY_S * 2 ** (len(failed) - 1), _LONGEST_PENALTY_S)
        if until > now_s:
            waits[job] = until, newest.message
    return waits
