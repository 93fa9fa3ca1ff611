"""Carries a plan out: the intent is in the store before Slurm is asked, the outcome after. Never re-plans."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import cast

from slurmext.errors import SlurmRefused, SlurmUnavailable
from slurmext.model.cluster import JobRecord
from slurmext.model.job import JobState
from slurmext.model.plan import Plan
from slurmext.model.policy import Policy
from slurmext.model.state import (
    ActionKind,
    ActionRecord,
    ActionState,
    CheckpointRecord,
    Intent,
    JobKey,
)
from slurmext.ports import Actuator, Clock, ClusterReader, Store
from slurmext.service import chain
from slurmext.service.budget import requeues_left
from slurmext.service.ckpt_wish import checkpoint_signal
from slurmext.service.deadlines import Deadlines, ledger_line, number
from slurmext.service.handover import handovers
from slurmext.service.intents import fences_of, intents_of
from slurmext.service.observe import Observation
from slurmext.service.rejoining import Rejoining
from slurmext.service.releasing import Releases
from slurmext.service.requeued import Requeued, is_delayed
from slurmext.service.steps import Steps

log = logging.getLogger(__name__)

_SAVED_BEFORE_S = 1.0
"""A checkpoint saved this little before the signal counts as its answer (clocks, and a save already under way)."""


EndLeft = Callable[[Collection[str], str, float], None]
"""(node names, SLURM_JOB_ID, Unix seconds before which the run began)."""
Tell = Callable[[Sequence[str], str, str, bool], None]
"""(nodes, the batch script's first; SLURM_JOB_ID; name of a signal; whether the script has not got it from Slurm)."""

_Due = tuple[ActionRecord, Mapping[str, object]]
"""An eviction whose time to requeue has come, and what its record is to say about its checkpoint."""


class Applier:
    """Acts for one holder of the controller lease; `token` goes with every write.

    `guard_s` is how long job_submit.lua keeps a job from starting that its user released from `sbatch --hold`.
    `end_left` kills, on these nodes, what is left of a run of the job (SLURM_JOB_ID) that began before then.
    `tell` sends the checkpoint signal to processes of the job on these nodes that Slurm's own does not reach.
    `crash` is called at every boundary between store and Slurm, for the test that kills the daemon at each of them.
    """

    def __init__(
        self,
        *,
        store: Store,
        reader: ClusterReader,
        actuator: Actuator,
        clock: Clock,
        guard_s: float = 30,
        end_left: EndLeft = lambda _nodes, _raw_id, _before_s: None,
        tell: Tell = lambda _nodes, _raw_id, _signal, _script: None,
        crash: Callable[[str], None] = lambda _boundary: None,
    ) -> None:
        self._guard_s, self._end_left, self._tell = guard_s, end_left, tell
        self.deadlines = Deadlines()
        self._store, self._reader, self._actuator, self._clock = store, reader, actuator, clock
        self._steps = Steps(store, clock, crash)
        self._releases = Releases(self._steps, actuator)
        self._requeued = Requeued(actuator)
        self.linked = set[chain.Told]()
        """Runs near their time limit that were told to save (`--ckpt=…,chain`)."""
        self.rejoining = Rejoining(actuator)

    # what a plan asks for

    def start(self, token: int, plan: Plan, observation: Observation, policy: Policy) -> int:
        """Write the intents of a plan and begin each. Returns how many actions were begun."""
        now = self._clock.now()
        open_actions = self._store.open_actions()
        left = requeues_left(self._store, policy, now)
        intents = intents_of(
            plan, observation, policy, open_actions, now=now, guard_s=self._guard_s, requeues_left=left
        )
        intents += self._links(observation, open_actions, now, float(policy.settings.grace_s))
        fences = fences_of(plan, observation, open_actions, now)
        if {(f.beneficiary, tuple(sorted(f.placement.items()))) for f in fences} != {
            (f.beneficiary, tuple(sorted(f.placement.items()))) for f in self._store.fences()
        }:
            self._store.replace_fences(token, fences)
        if not intents:
            return 0
        summary = {
            "release": len(plan.release),
            "evict": len(plan.evict),
            "move": len(plan.move),
            "pending": len(plan.reasons),
            "policy": policy.version,
        }
        actions = self._store.record_plan(token, now, summary, intents)
        self._steps.crash("intents recorded")
        self._begin(token, actions, observation)
        return len(actions)

    def carry_out(self, token: int, intents: Sequence[Intent], observation: Observation) -> int:
        """Write intents that another plan asks for and begin each. Returns how many."""
        counts = Counter(intent.kind.value for intent in intents)
        actions = self._store.record_plan(token, self._clock.now(), dict(counts), intents)
        self._steps.crash("intents recorded")
        self._begin(token, actions, observation)
        return len(actions)

    def _links(
        self, observation: Observation, open_actions: Sequence[ActionRecord], now: float, grace_s: float
    ) -> list[Intent]:
        """Jobs whose time limit is near and who asked to go on in another run."""
        runs = {(known.key, known.record.start_s) for known in chain.candidates(observation)}
        self.linked &= runs
        intents = chain.links(observation, open_actions, self.linked, now=now, grace_s=grace_s)
        self.linked |= {run for run in runs if run[0] in {intent.job for intent in intents}}
        return intents

    def _begin(self, token: int, actions: Sequence[ActionRecord], observation: Observation) -> None:
        """Do what was just written down, gentle first."""
        releases = [action for action in actions if action.kind is ActionKind.RELEASE]
        for action in actions:
            if action.kind is ActionKind.HOLD:
                hold = self._actuator.take_over if action.detail.get("guarded") else self._actuator.hold
                self._steps.attempt(token, action, hold, ActionState.DONE)
        self._releases.begin(token, releases, observation)
        victims = [action for action in actions if action.kind is ActionKind.EVICT]
        if victims:
            fresh = self._reader.find({action.job.job_id for action in victims})
            at_once = [action for action in victims if self._forewarn(token, action, fresh.get(action.job.job_id))]
            self._requeue(token, [(action, {}) for action in at_once], observation)

    def _forewarn(self, token: int, action: ActionRecord, record: JobRecord | None) -> bool:
        """Signal a victim, if it still is what the plan saw. True for one that knows no checkpoint signal."""
        if record is not None and record.state is JobState.PENDING and not record.het:
            self._steps.attempt(token, action, self._actuator.hold, ActionState.DONE)
            return False
        if record is None or record.state is not JobState.RUNNING or record.start_s != action.detail.get("start_s"):
            self._steps.advance(token, action, ActionState.ABANDONED, "the job is no longer what the plan saw")
            return False
        warn = checkpoint_signal(cast("str | None", action.detail.get("ckpt")), number(action, "grace_s"))
        if warn is None:
            return True
        signal, wait_s = warn
        # `auto` is ignored by a batch shell; a signal of the user's own would end one that has no trap for it.
        own = "@" in str(action.detail.get("ckpt"))
        try:
            self._actuator.signal(action.job.job_id, signal, script=not own)
        except SlurmRefused as refused:
            self._steps.advance(token, action, ActionState.FAILED, str(refused))
            return False
        for part in record.components or (record,):
            self._tell([place.node for place in part.placement], part.raw_id, signal, own and part.batch)
        self._steps.crash("signalled")
        now = self._clock.now()
        self._steps.advance(
            token, action, ActionState.SIGNALLED, f"sent SIG{signal}, waits up to {wait_s:g} s for its checkpoint",
            {"signalled_s": now, "deadline_s": now + wait_s},
        )  # fmt: skip
        return False

    # what is under way

    def follow(self, token: int, observation: Observation, checkpoints: Mapping[str, CheckpointRecord]) -> int:
        """Take every open action as far as Slurm's state allows. Returns how many are still open."""
        now = self._clock.now()
        self._requeued.forget()
        due = list[_Due]()
        open_actions = self._store.open_actions()
        self._releases.see(open_actions, observation, now)
        for action in open_actions:
            known = observation.find(action.job.job_id)
            record = known.record if known and known.key == action.job else None
            if action.kind is ActionKind.EVICT:
                answer = checkpoints.get(action.job.job_id)
                due += self._follow_eviction(token, action, record, answer, now)
                if record is not None:
                    self._requeued.see(action, record, observation, now)
            elif action.kind is ActionKind.RELEASE:
                self._releases.follow(token, action, record, observation, now)
            else:
                held = record is None or record.held
                self._steps.advance(token, action, ActionState.DONE if held else ActionState.ABANDONED)
        self._requeue(token, due, observation)
        return len(self._store.open_actions())

    def _follow_eviction(
        self,
        token: int,
        action: ActionRecord,
        record: JobRecord | None,
        checkpoint: CheckpointRecord | None,
        now: float,
    ) -> list[_Due]:
        """Take one eviction further; returns it when it is time to requeue."""
        if action.state is ActionState.INTENT:
            # Begun by a daemon that died. A signal it may have sent costs the job one checkpoint; a requeue shows.
            requeued = (
                record is not None
                and record.start_s != action.detail.get("start_s")
                and record.state is not JobState.RUNNING
            )
            if requeued and record is not None and not record.held:
                self._steps.advance(token, action, ActionState.REQUEUED, "to be held", {"requeued_s": now})
            elif requeued:
                self._finish(token, action, "requeued", now)
            else:
                self._steps.advance(token, action, ActionState.ABANDONED, "not begun; planned anew if it still helps")
            return []
        if record is None:
            self._finish(token, action, "ended by itself", now)
        elif record.state is JobState.RUNNING and record.start_s != action.detail.get("start_s"):
            self._requeued.started_again(record)
            self._releases.robbed.add(str(action.detail.get("beneficiary", "")))
            self._finish(token, action, "requeued, and started again", now)
        elif record.state is JobState.RUNNING and action.state is ActionState.SIGNALLED:
            signalled = number(action, "signalled_s")
            if (
                checkpoint is not None
                and checkpoint.saved_s >= signalled - _SAVED_BEFORE_S
                and checkpoint.confirmed_s >= signalled
            ):
                return [(action, {"confirmed_s": checkpoint.confirmed_s, "step": checkpoint.step})]
            if now >= number(action, "deadline_s"):
                if chain.is_link(action) and not chain.saved_in_run(action, checkpoint):
                    why = "it saved nothing in this run, and another would only repeat it: its time limit ends it"
                    self._steps.advance(token, action, ActionState.ABANDONED, why)
                    return []
                return [(action, {})]
        elif record.state is JobState.PENDING and record.held:
            self._finish(token, action, "requeued and held", now)
        elif record.state is JobState.PENDING and record.het and not is_delayed(action, record, now):
            self._finish(token, action, "requeued; Slurm starts it when there is room", now)
        elif record.state is JobState.RUNNING and action.state is ActionState.REQUEUED:
            return [(action, {})]  # asked for, but Slurm does not show it: ask again
        elif record.state is JobState.COMPLETING and action.state is ActionState.REQUEUED:
            self._end_if_due(action, record, now)
        return []

    def _end_if_due(self, action: ActionRecord, record: JobRecord, now: float) -> None:
        """Nobody waits for Slurm's KillWait longer than for a grace, and nobody for both."""
        if record.raw_id and now >= self.deadlines.grace_end_s(action):
            self.deadlines.ended(action, now)
            for part in record.components or (record,):
                nodes = [place.node for place in part.placement]
                log.info("job %s does not end on %s: what is left is killed", part.slurm_id, ",".join(nodes))
                self._end_left(nodes, part.raw_id, number(action, "requeued_s"))

    def _requeue(self, token: int, due: Sequence[_Due], observation: Observation) -> None:
        if not due:
            return
        refused = self._actuator.requeue([action.job.job_id for action, _ in due])
        self._steps.crash("requeued")
        self._hand_over(token, {action.job for action, _ in due if action.job.job_id not in refused}, observation)
        self._requeued.told([action.job.job_id for action, _ in due], observation)
        now = self._clock.now()
        for action, detail in due:
            why = refused.get(action.job.job_id)
            if why is not None:
                self._steps.advance(token, action, ActionState.FAILED, why)
                continue
            message = "its checkpoint is confirmed: requeued" if detail else "requeued"
            self._steps.advance(token, action, ActionState.REQUEUED, message, {"requeued_s": now, **detail})

    def _hand_over(self, token: int, told: Collection[JobKey], observation: Observation) -> None:
        """Release who waits for nothing but victims that were just told to end, before all else: they end soon."""
        intents = handovers(told, self._store.open_actions(), self._store.fences(), observation)
        if intents:
            actions = self._store.record_plan(token, self._clock.now(), {"release": len(intents)}, intents)
            self._steps.crash("handover recorded")
            self._releases.begin(token, actions, observation)

    def notify(self, record: JobRecord, words: str) -> None:
        """Write into a running job's output. It is in its timeline as well: nothing is lost when Slurm refuses."""
        try:
            self._actuator.notify(record.raw_id or record.slurm_id, words)
        except (SlurmRefused, SlurmUnavailable) as error:
            log.info("job %s was not told: %s", record.slurm_id, error)

    def hold_requeued(self) -> None:
        """Deal with the victims that `follow` found requeued, now that everything urgent is done."""
        if self._requeued.act():
            self._steps.crash("held requeued")

    def _finish(self, token: int, action: ActionRecord, message: str, now: float) -> None:
        """Close an eviction and write the victim's ledger."""
        self.deadlines.forget(action)
        written = any(line.ended_s >= action.created_s for line in self._store.preemptions(job_id=action.job.job_id))
        if message != "ended by itself" and not written and not chain.is_link(action):
            self._store.record_preemption(token, ledger_line(action, now))
            self._steps.crash("ledger written")
        self._steps.advance(token, action, ActionState.DONE, message)
