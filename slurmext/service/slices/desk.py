"""One cycle's work on slices: follow what is under way, plan, carry out. Runs after whole-GPU jobs were planned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from slurmext.errors import SlurmRefused
from slurmext.model.cluster import ClusterView, JobRecord
from slurmext.model.job import JobState
from slurmext.model.plan import Plan, Reason
from slurmext.model.policy import Policy
from slurmext.model.slice_state import HoldState, SliceState
from slurmext.model.slicing import HoldPlaces, SlicedGpu, SliceJob, SlicePlace, SlicePlan, SliceSnapshot
from slurmext.model.snapshot import Snapshot
from slurmext.model.state import ActionKind, JobKey
from slurmext.policy.explain.slices import SLICE_SENTENCES
from slurmext.policy.slicing import SlicePlanner
from slurmext.ports import Actuator, Clock, ClusterReader, Placeholders, SliceAgents, Store
from slurmext.service.apply import Applier
from slurmext.service.budget import requeues_left
from slurmext.service.observe import Observation
from slurmext.service.slices.books import Books
from slurmext.service.slices.cards import place_of
from slurmext.service.slices.demand import Demand
from slurmext.service.slices.leaving import beneficiaries, leaving
from slurmext.service.slices.memory import SliceMemory, remembered
from slurmext.service.slices.outgrown import Outgrown
from slurmext.service.slices.reservations import Reservations
from slurmext.service.slices.sentences import sentences
from slurmext.service.slices.world import slice_snapshot

log = logging.getLogger(__name__)

_WANTS_A_GPU = frozenset({Reason.SLICE_FULL, Reason.SLICE_FRAGMENTED, Reason.SLICE_POOL, Reason.SLICE_TAKING_GPU})
_MOST_RESERVED = 64
"""So many reservations are made in one cycle: the next one comes at once, and sees what came of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceResult:
    """What a cycle decided about slices. `busy`: something is under way that nobody tells us the end of."""

    reasons: Mapping[str, Reason] = field(default_factory=dict[str, Reason])
    messages: Mapping[str, str] = field(default_factory=dict[str, str])
    began: int = 0
    busy: int = 0


class SliceDesk:
    """Works for the holder of the controller lease. `last` is what the last cycle saw and decided.

    `on_cards` is called with the cards, and the number of nodes whose GPUs no agent has described yet, whenever what
    they can be cut into has changed.
    """

    def __init__(
        self,
        *,
        store: Store,
        applier: Applier,
        actuator: Actuator,
        reader: ClusterReader,
        placeholders: Placeholders,
        agents: SliceAgents,
        clock: Clock,
        owners: Collection[int],
        on_cards: Callable[[Collection[SlicedGpu], int], None] = lambda _cards, _unheard: None,
    ) -> None:
        self._store, self._applier, self._actuator, self._agents = store, applier, actuator, agents
        self._clock = clock
        self._books = Books(store, placeholders, agents, clock, owners=owners)
        self._reader = reader
        self._reservations = Reservations(store, agents, clock, number_of=self._number_of)
        self._outgrown = Outgrown(store, actuator, clock)
        self._planner = SlicePlanner()
        self._demand = Demand()
        self._empty_since = dict[str, float]()
        self._holds: tuple[HoldPlaces, ...] = ()
        self._on_cards = on_cards
        self._catalogue: object = None
        self._held_s = dict[str, float]()
        self.last: tuple[SliceSnapshot, SlicePlan] | None = None

    def memory(self, now_s: float) -> SliceMemory:
        """What is known of slices now."""
        return remembered(self._store, frozenset(self._agents.connected()), now_s)

    def run(
        self, token: int, policy: Policy, view: ClusterView, observation: Observation, decided: Plan
    ) -> SliceResult:
        """Follow, plan and act under the lease's token."""
        now_s = self._clock.now()
        memory = self.memory(now_s)
        if not (observation.slices or memory.records or memory.holds or memory.gpus):
            return SliceResult()
        under_way = self._store.open_actions()
        releasing = {
            action.job for action in under_way if action.kind in {ActionKind.RELEASE, ActionKind.EVICT, ActionKind.HOLD}
        }
        self._books.follow(token, view, memory, awaited=beneficiaries(under_way))
        followed = self._reservations.follow(token, observation, memory, releasing)
        if followed.release:
            self._applier.carry_out(token, followed.release, observation)
        self._requeue(followed.requeue)
        self._hold_missed(observation, memory)
        self._outgrown.follow(view, memory, policy)
        memory = self.memory(now_s)
        snapshot = self._snapshot(policy, view, observation, memory, decided)
        plan = self._planner.plan(snapshot)
        began = self._apply(token, plan, snapshot, view, observation, memory, policy)
        self._holds = plan.hold
        self.last = snapshot, plan
        return self._result(plan, snapshot, memory, observation.snapshot, decided, began + len(followed.release))

    def _snapshot(
        self, policy: Policy, view: ClusterView, observation: Observation, memory: SliceMemory, decided: Plan
    ) -> SliceSnapshot:
        by_id = {known.record.slurm_id: known.key for known in observation.known.values()}
        # what was released, given up or freed a moment ago is in the store, not in what was observed
        jobs = [_updated(job, by_id, memory) for job in observation.slices]
        here = {record.gpu for record in memory.records}
        held = {hold.gpu for hold in memory.holds if hold.gpu}
        now_s = observation.snapshot.now_s
        self._empty_since = {gpu: self._empty_since.get(gpu, now_s) for gpu in held - here}
        snapshot = slice_snapshot(
            view, observation.snapshot, jobs, decided, memory, policy.slices,
            empty_since=self._empty_since, holds=self._holds,
            shut=self._books.shut(now_s), mix=self._demand.see(jobs, now_s),
        )  # fmt: skip
        self._tell_cards(snapshot, view)
        return snapshot

    def _tell_cards(self, snapshot: SliceSnapshot, view: ClusterView) -> None:
        described = {card.node for card in snapshot.gpus}
        unheard = sum(node.gpus > 0 and node.name not in described for node in view.nodes)
        kinds = frozenset((card.node, card.gpu_type, card.memory_mib, card.geometry) for card in snapshot.gpus)
        if (kinds, unheard) != self._catalogue:
            self._catalogue = kinds, unheard
            self._on_cards(snapshot.gpus, unheard)

    def _apply(
        self,
        token: int,
        plan: SlicePlan,
        snapshot: SliceSnapshot,
        view: ClusterView,
        observation: Observation,
        memory: SliceMemory,
        policy: Policy,
    ) -> int:
        """Give way first, then take places, then GPUs. Returns how many things were begun."""
        for warm in plan.free_warm:
            self._agents.free_warm(warm.node, warm.gpu, warm.profile, warm.start)
        cards = {card.uuid: card for card in snapshot.gpus}
        orders = plan.reserve[:_MOST_RESERVED]
        for order in orders:
            log.info("job %s: %s", order.job, ", ".join(_shown(place) for place in order.places))
        began = self._reservations.reserve(token, orders, observation, cards)
        going = {action.job for action in self._store.open_actions() if action.kind is ActionKind.EVICT}
        left = requeues_left(self._store, policy, self._clock.now())
        intents, refused = leaving(plan, observation, going, grace_s=float(policy.settings.grace_s), left=left)
        if intents:
            began += self._applier.carry_out(token, intents, observation)
        for take in plan.take_gpu:
            if take.job not in refused:
                began += self._books.take(token, take, view, memory)
        for back in plan.return_gpu:
            began += self._books.give_back(token, back, memory)
        return began

    def _number_of(self, record: JobRecord, nodes: Sequence[str]) -> str:
        """SLURM_JOB_ID of the job. A task that waits in its array has no number of its own before it is changed."""
        base, task, _ = record.slurm_id.partition("_")
        if not task or record.raw_id != base:
            return record.raw_id or record.slurm_id
        try:
            self._actuator.set_nodes(record.slurm_id, nodes)
        except SlurmRefused as refused:
            log.warning("job %s: %s", record.slurm_id, refused)
        found = self._reader.find([record.slurm_id]).get(record.slurm_id)
        return record.raw_id if found is None else found.raw_id

    def _requeue(self, job_ids: Collection[str]) -> None:
        """Jobs that could not run without their slices go back to waiting."""
        if not job_ids:
            return
        refused = self._actuator.requeue(sorted(job_ids))
        for job_id, why in refused.items():
            log.warning("job %s missed its slices and cannot be requeued: %s", job_id, why)

    def _hold_missed(self, observation: Observation, memory: SliceMemory) -> None:
        """A requeued job is to wait for its next place, held, and not longer than that takes."""
        now_s = self._clock.now()
        due = list[str]()
        for key in memory.missed:
            known = observation.known.get(key.job_id)
            if known is None or known.key != key or known.record.state is not JobState.PENDING:
                continue
            late = not known.record.held or (known.record.eligible_s or 0) > now_s + 1
            if late and now_s - self._held_s.get(key.job_id, 0) > 2:  # noqa: PLR2004
                self._held_s[key.job_id] = now_s
                due.append(key.job_id)
        if due:
            try:
                self._actuator.hold_requeued(due)
            except SlurmRefused as refused:
                log.warning("jobs %s: %s", ",".join(due), refused)

    def _result(
        self, plan: SlicePlan, snapshot: SliceSnapshot, memory: SliceMemory, whole: Snapshot, decided: Plan, began: int
    ) -> SliceResult:
        reasons, messages = dict(plan.reasons), dict[str, str]()
        said = sentences(whole, decided, {job.id: job for job in snapshot.jobs}, plan)
        shut = ", ".join(f"{node} ({why})" for node, why in sorted(self._books.shut(self._clock.now()).items()))
        for job in snapshot.jobs:
            if job.state is not JobState.PENDING:
                continue
            if job.places:
                messages[job.id] = (
                    f"its slices are being made ready on {', '.join(sorted({p.node for p in job.places}))}"
                )
                continue
            miss = next((why for key, (_, why) in memory.missed.items() if key.job_id == job.id), None)
            if miss is not None:
                reasons[job.id] = Reason.SLICE_MISSED
                messages[job.id] = f"{SLICE_SENTENCES[Reason.SLICE_MISSED]}: {miss}"
            elif job.id in plan.reasons:
                messages[job.id] = plan.details.get(job.id) or job.blocked or said.get(job.id, "")
                if shut and plan.reasons[job.id] in _WANTS_A_GPU:
                    messages[job.id] += f"; no GPU of {shut} can be taken now"
        early = sum(record.state is not SliceState.LIVE for record in memory.records)
        moving = sum(hold.state is not HoldState.HELD for hold in memory.holds)
        soon = self._reservations.soon
        return SliceResult(reasons=reasons, messages=messages, began=began, busy=early + moving + soon)


def _updated(job: SliceJob, keys: Mapping[str, JobKey], memory: SliceMemory) -> SliceJob:
    """The job with the places it has now; one that missed its slices is not planned before that is forgiven."""
    key = keys[job.id]
    eligible, penalty = job.eligible_s, memory.missed.get(key)
    if penalty is not None and job.state is JobState.PENDING:
        eligible = max(penalty[0], eligible or 0)
    records = memory.by_job.get(key, ())
    # one that waits again still has the slices of its last run until their agent has freed them
    ending = job.state is JobState.PENDING and any(record.state is SliceState.LIVE for record in records)
    state = JobState.COMPLETING if ending else job.state
    return replace(job, state=state, places=tuple(place_of(record) for record in records), eligible_s=eligible)


def _shown(place: SlicePlace) -> str:
    what = place.profile or f"{place.share_pct}% and {place.memory_mib} MiB"
    return f"{what} at {place.start} of {place.gpu} on {place.node}" if place.profile else f"{what} of {place.gpu}"
