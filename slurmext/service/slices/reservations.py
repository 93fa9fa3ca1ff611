"""Reservations from the plan to the job's end: written down, told to the agents, released, given up, freed."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from slurmext.model.cluster import JobRecord
from slurmext.model.job import JobState
from slurmext.model.slice_state import SliceRecord, SliceState
from slurmext.model.slicing import Reserve, SlicedGpu, SlicePlace
from slurmext.model.state import ActionKind, Intent, JobKey
from slurmext.ports import Clock, SliceAgents, Store
from slurmext.service.observe import Known, Observation
from slurmext.service.slices.asked import asked
from slurmext.service.slices.cards import milli_of
from slurmext.service.slices.memory import SliceMemory
from slurmext.service.slices.presence import Presence

log = logging.getLogger(__name__)

AGAIN_S = 5.0
"""An order that is not answered is given again after this time."""
ANSWER_S = 20.0
"""An agent that is connected has so long to take a reservation."""
AWAY_S = 5.0
"""The same for one that is away."""
BEGUN_S = 20.0
"""A job that has run for so long and whose slices nobody has begun to make never gets any."""
TELLS_S = 3.0
"""An agent that came back has told by then what happened meanwhile."""
SILENT_S = 60.0
"""Where the agent is away that takes longer: it may have made them and died before it said so. Tasks wait meanwhile."""
LOST_S = 3600.0
"""So long after the end of its job a reservation on a node whose agent is away is given up."""
FREED_S = 20.0
"""So long after a job's end its slices are asked for again; at once where the agent was away then and is back."""

_EARLY = (SliceState.RESERVED, SliceState.READY)


@dataclass(slots=True)
class Followed:
    """Releases to be made, and jobs that missed their slices and are to be requeued."""

    release: list[Intent] = field(default_factory=list[Intent])
    requeue: list[str] = field(default_factory=list[str])


class Reservations:
    """Of the holder of the controller lease. What it remembers besides the store only saves repeated orders."""

    def __init__(
        self, store: Store, agents: SliceAgents, clock: Clock, *, number_of: Callable[[JobRecord, Sequence[str]], str]
    ) -> None:
        """`number_of` gives the SLURM_JOB_ID an array task will have on these nodes, which it may have to be told."""
        self._store, self._agents, self._clock, self._number_of = store, agents, clock, number_of
        self._told = dict[tuple[str, str], float]()
        self._released = dict[str, float]()
        self._ended = dict[tuple[str, str], float]()
        self._ended_before = dict[tuple[str, str], float]()
        self._presence = Presence()
        self.soon = 0
        """Slices to be asked for in a moment, of jobs that ended while their agents were away."""

    # what a plan asks for

    def reserve(
        self, token: int, orders: Sequence[Reserve], observation: Observation, cards: Mapping[str, SlicedGpu]
    ) -> int:
        """Write the places of jobs down, all at once, and tell the agents. Returns how many jobs that were."""
        now_s = self._clock.now()
        records = [
            _record(order, place, observation.known[order.job], cards.get(place.gpu), name, now_s)
            for order in orders
            for name in (secrets.token_hex(8),)
            for place in order.places
        ]
        by_job = dict[JobKey, list[SliceRecord]]()
        for record in self._store.add_slices(token, records) if records else ():
            by_job.setdefault(record.job, []).append(record)
        for job, mine in by_job.items():
            self._tell(mine, observation.known[job.job_id].record, now_s)
        return len(by_job)

    def _tell(self, records: Sequence[SliceRecord], job: JobRecord, now_s: float) -> None:
        """Tell the agents of the nodes where the reservation is not confirmed yet."""
        nodes = sorted({record.node for record in records})
        name = records[0].reservation
        due = [
            node
            for node in sorted({record.node for record in records if record.state is SliceState.RESERVED})
            if now_s - self._told.get((name, node), 0) >= AGAIN_S
        ]
        number = self._number_of(job, nodes) if due else ""
        for node in due:
            there = [record for record in records if record.node == node]
            wish = asked(job.annotation)
            if self._agents.reserve(there, raw_id=number, uid=job.uid or 0, restarts=job.restarts, asked=wish):
                self._told[name, node] = now_s

    # what is under way

    def follow(
        self, token: int, observation: Observation, memory: SliceMemory, releasing: Collection[JobKey]
    ) -> Followed:
        """Take every reservation as far as Slurm and agents allow. `releasing` are jobs whose release is open."""
        now_s, found = self._clock.now(), Followed()
        self._presence.see({record.node for record in memory.records}, memory.connected, now_s)
        self._ended_before, self._ended = self._ended, {}
        self.soon = 0
        by_key = {known.key: known for known in observation.known.values()}
        groups = dict[str, list[SliceRecord]]()
        for record in memory.records:
            groups.setdefault(record.reservation, []).append(record)
        for records in groups.values():
            known = by_key.get(records[0].job)
            self._follow(token, records, known, memory, releasing, found, now_s)
        self._requeue_missed(by_key, memory, found)
        self._told = {key: at_s for key, at_s in self._told.items() if key[0] in groups}
        self._released = {name: at_s for name, at_s in self._released.items() if name in groups}
        return found

    def _follow(
        self,
        token: int,
        records: Sequence[SliceRecord],
        known: Known | None,
        memory: SliceMemory,
        releasing: Collection[JobKey],
        found: Followed,
        now_s: float,
    ) -> None:
        job = None if known is None else known.record
        early = [record for record in records if record.state in _EARLY]
        live = [record for record in records if record.state is SliceState.LIVE]
        if job is None or known is None:
            self._gone(token, records, memory, now_s)
        elif any(miss.reservation == records[0].reservation for miss in memory.misses):
            self.give_up(token, early, "another slice of the job could not be made")
            self._ask_for(live, now_s)
        elif job.state is not JobState.PENDING:
            self._check_begun(token, early, job, memory, now_s)
        elif live:
            self._ask_for(live, now_s)  # of the run before this one
        elif any(record.state is SliceState.RESERVED for record in early):
            self._await(token, early, job, memory, now_s)
        elif away := sorted({record.node for record in early} - memory.connected):
            if max(self._presence.away_s(node) for node in away) > AWAY_S:
                self.give_up(token, early, f"the agent of {', '.join(away)} is away", missed=True)
        elif job.held and known.key not in releasing:
            self._release(token, early, known, found, now_s)

    def _gone(self, token: int, records: Sequence[SliceRecord], memory: SliceMemory, now_s: float) -> None:
        """The job is over. Its agents know best whether it had its slices: what they say comes in order."""
        early = [record for record in records if record.state in _EARLY]
        self._ask_for([record for record in records if record.state is SliceState.LIVE], now_s)
        for node, name in sorted({(record.node, record.reservation) for record in early}):
            if node in memory.connected and now_s - self._told.get((name, f"free {node}"), 0) > AGAIN_S:
                self._told[name, f"free {node}"] = now_s
                self._agents.withdraw(node, name)
        lost = [record for record in early if now_s - record.changed_s > LOST_S and record.node not in memory.connected]
        self.give_up(token, lost, "its job is gone, and so is the agent")

    def _check_begun(
        self, token: int, early: Sequence[SliceRecord], job: JobRecord, memory: SliceMemory, now_s: float
    ) -> None:
        """A job that runs and whose prolog never reached an agent has no slices: its tasks wait in vain."""
        ran_s = now_s - (job.start_s or now_s) if job.state is JobState.RUNNING else 0.0
        silent = [record for record in early if ran_s > BEGUN_S and self._is_silent(record.node)]
        if silent:
            ids = [record.id for record in silent]
            node = silent[0].node
            why = f"its prolog did not reach the agent of {node}"
            why = why if node in memory.connected else f"the agent of {node} is away"
            log.warning("job %s: %s", job.slurm_id, why)
            self._store.advance_slices(ids, SliceState.MISSED, now_s, why=why, within=_EARLY, token=token)
            self._withdraw(silent)

    def _is_silent(self, node: str) -> bool:
        """Whether what the agent has to say of jobs that run would be known: it is there, or has been away for long."""
        return self._presence.here_s(node) > TELLS_S or self._presence.away_s(node) > SILENT_S

    def _await(
        self, token: int, records: Sequence[SliceRecord], job: JobRecord, memory: SliceMemory, now_s: float
    ) -> None:
        """Have the agents confirm; one that does not is a miss, and the job gets another place."""
        waited_s = now_s - min(record.created_s for record in records)
        silent = sorted({record.node for record in records if record.state is SliceState.RESERVED})
        away = [node for node in silent if node not in memory.connected]
        if waited_s > ANSWER_S or max((self._presence.away_s(node) for node in away), default=0.0) > AWAY_S:
            why = f"the agent of {(away or silent)[0]} {'is away' if away else 'does not answer'}"
            self._store.advance_slices(
                [record.id for record in records], SliceState.MISSED, now_s, why=why, within=_EARLY, token=token
            )
            self._withdraw(records)
            return
        self._tell(records, job, now_s)

    def _release(self, token: int, records: Sequence[SliceRecord], known: Known, found: Followed, now_s: float) -> None:
        name = records[0].reservation
        kept_back = bool(known.record.dependency) or known.limited
        if name in self._released or known.record.dependency:
            # Slurm did not start it there, a limit or its user holds it back: the place is for others.
            why = "it cannot start now" if kept_back else "Slurm did not start it there"
            log.info("job %s: %s, its slices are given up", known.record.slurm_id, why)
            self.give_up(token, records, why, missed=not kept_back)
            return
        self._released[name] = now_s
        nodes = sorted({record.node for record in records})
        found.release.append(
            Intent(
                kind=ActionKind.RELEASE,
                job=known.key,
                reason="SLICES",
                message=f"on {_shown(records)} of {', '.join(nodes)}",
                detail={"placement": {}, "nodes": nodes, "node_count": None, "reservation": name},
            )
        )

    def _requeue_missed(self, by_key: Mapping[JobKey, Known], memory: SliceMemory, found: Followed) -> None:
        """Jobs that started although a slice of theirs could not be made: no task of theirs runs."""
        for miss in memory.misses:
            known = by_key.get(miss.job)
            if known is None or known.record.state is not JobState.RUNNING or not known.record.batch:
                continue
            started = (known.record.start_s or 0) <= miss.changed_s + 1
            if started and miss.reservation == memory.newest.get(miss.job):
                found.requeue.append(known.record.slurm_id)
        found.requeue = sorted(set(found.requeue))

    def give_up(self, token: int, records: Sequence[SliceRecord], why: str, *, missed: bool = False) -> None:
        """Take reservations back that no job runs on; with `missed` the job is tried again later."""
        if not records:
            return
        state = SliceState.MISSED if missed else SliceState.WITHDRAWN
        ids = [record.id for record in records]
        self._store.advance_slices(ids, state, self._clock.now(), why=why, within=_EARLY, token=token)
        self._withdraw(records)

    def _withdraw(self, records: Sequence[SliceRecord]) -> None:
        for node, name in sorted({(record.node, record.reservation) for record in records}):
            self._agents.withdraw(node, name)

    def _ask_for(self, records: Sequence[SliceRecord], now_s: float) -> None:
        """The job has ended and its agent should have said so: have it freed, or say that it is."""
        for node, name in sorted({(record.node, record.reservation) for record in records}):
            since_s = self._ended[name, node] = self._ended_before.get((name, node), now_s)
            ended_s, here_s = now_s - since_s, self._presence.here_s(node)
            came_back = self._presence.is_here(node) and here_s <= ended_s
            self.soon += came_back and here_s <= TELLS_S
            due = ended_s > FREED_S or (came_back and here_s > TELLS_S)
            if due and now_s - self._told.get((name, f"free {node}"), 0) > AGAIN_S:
                self._told[name, f"free {node}"] = now_s
                self._agents.withdraw(node, name)


def _record(
    order: Reserve, place: SlicePlace, known: Known, card: SlicedGpu | None, name: str, now_s: float
) -> SliceRecord:
    profile = None
    if card is not None and card.geometry is not None and place.profile is not None:
        profile = card.geometry.profile(place.profile)
    return SliceRecord(
        reservation=name,
        job=known.key,
        user=known.record.user,
        queue=known.queue or "",
        node=place.node,
        gpu=place.gpu,
        gpu_type="gpu" if card is None else card.gpu_type,
        profile=place.profile,
        profile_id=None if profile is None else profile.profile_id,
        start=place.start,
        share_pct=place.share_pct,
        memory_mib=place.memory_mib if profile is None else profile.memory_mib,
        milli=milli_of(place, card),
        why=order.why,
        created_s=now_s,
        changed_s=now_s,
    )


def _shown(records: Sequence[SliceRecord]) -> str:
    counts = dict[str, int]()
    for record in records:
        what = record.profile or f"{record.share_pct}% of a GPU"
        counts[what] = counts.get(what, 0) + 1
    return ", ".join(f"{count} x {what}" if count > 1 else what for what, count in sorted(counts.items()))
