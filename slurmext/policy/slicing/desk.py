"""The state of one slice plan while it is made: the world counted once, and what is put where.

What changes it, from gentle to harsh, is added by the classes built on it: Placing (start now, take a GPU),
MakingRoom (wait, reclaim, move, hold).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from slurmext.model.job import HOLDING, Job, JobState
from slurmext.model.plan import Reason
from slurmext.model.slicing import (
    FreeWarm,
    HoldPlaces,
    Reserve,
    SliceEvict,
    SliceJob,
    SliceMove,
    SlicePlace,
    SliceSnapshot,
)
from slurmext.policy.slicing.cards import Card, Host, Tenant, Yard
from slurmext.policy.slicing.finder import Pick, Request, Site
from slurmext.policy.slicing.needs import Refusal, Wish
from slurmext.policy.slicing.pools import Pools
from slurmext.policy.slicing.quota import PartsByType, Quotas, slice_in_parts
from slurmext.policy.slicing.wants import Wants, idle_parts

Picks = Sequence[tuple[int, Sequence[Pick]]]
"""(number of a host, what of it) for each host a job uses."""


class Desk:
    """One plan in the making."""

    def __init__(self, snapshot: SliceSnapshot, whole: Iterable[Job]) -> None:
        """`whole` are the whole-GPU jobs that hold GPUs, in parts."""
        self.snapshot = snapshot
        self.jobs = {job.id: job for job in sorted(snapshot.jobs, key=lambda job: job.id)}
        self.yard = Yard(snapshot)
        self.wants = Wants(snapshot, self.yard)
        for job in self.jobs.values():
            self.yard.place(job.id, job.places)
        self.leaving: dict[str, str | None] = {
            job.id: job.evicting_for for job in self.jobs.values() if _on_its_way_out(job)
        }
        """Jobs that give their places back without being asked again, and for whom."""
        self.site = Site(self.yard, self.wants.mix())
        self.pools = Pools(snapshot, self.site)
        self.parts: dict[str, dict[str, int]] = {}
        """What jobs that have places count against quotas, in parts by GPU type."""
        self.shadows = {job.id: self._shadow(job) for job in self.jobs.values()}
        self.whole = {job.id: job for job in whole}
        """Whole-GPU jobs that hold GPUs, in parts."""
        self.quotas = Quotas(snapshot, [*self.whole.values(), *self.shadows.values()], idle_parts(self.yard))
        self.reserve: list[Reserve] = []
        self.free_warm: list[FreeWarm] = []
        self.hold: list[HoldPlaces] = []
        self.move: list[SliceMove] = []
        self.evict: list[SliceEvict] = []
        self.reasons: dict[str, Reason] = {}
        self.details: dict[str, str] = {}

    def _shadow(self, job: SliceJob) -> Job:
        if not job.places:
            return slice_in_parts(job, self.wants.parts(job), {})
        on_nodes: dict[str, int] = {}
        by_type = self.parts[job.id] = {}
        for (node, gpu_type), parts in self.wants.parts_of(job.places).items():
            on_nodes[node] = on_nodes.get(node, 0) + parts
            by_type[gpu_type] = by_type.get(gpu_type, 0) + parts
        return slice_in_parts(job, sum(on_nodes.values()) or self.wants.parts(job), on_nodes)

    @property
    def pending(self) -> list[SliceJob]:
        """Jobs that wait for a reservation, by id."""
        return [job for job in self.jobs.values() if job.state is JobState.PENDING and not job.places]

    def say(self, job_id: str, reason: Reason, detail: str = "") -> None:
        """Why the job waits; the last word counts."""
        self.reasons[job_id] = reason
        self.details.pop(job_id, None)
        if detail:
            self.details[job_id] = detail

    def refuse(self, job: SliceJob, refusal: Refusal) -> None:
        """No card could ever do."""
        self.say(job.id, refusal.reason, refusal.detail)

    def wish(self, job: SliceJob) -> Wish | None:
        """The job's wish; None when it is refused."""
        found = self.wants.wish(job)
        return found if isinstance(found, Wish) else None

    # --- places -----------------------------------------------------------------------------------------------------

    def by_type(self, picks: Picks) -> dict[str, int]:
        """What the picks count against quotas, in parts by GPU type."""
        found: dict[str, int] = {}
        for number, chosen in picks:
            for pick in chosen:
                card = self.yard.hosts[number].cards[pick.card]
                parts = 0
                if pick.share is not None:
                    parts = pick.share.parts
                elif pick.spot is not None and card.kind is not None:
                    parts = card.kind.parts[pick.spot.profile]
                found[card.card_type.gpu_type] = found.get(card.card_type.gpu_type, 0) + parts
        return found

    def places(self, picks: Picks) -> tuple[SlicePlace, ...]:
        """The picks as the plan tells them. Idle GPUs have no UUID yet and are left out."""
        found: list[SlicePlace] = []
        for number, chosen in sorted(picks, key=lambda pair: pair[0]):
            host = self.yard.hosts[number]
            for pick in chosen:
                card = host.cards[pick.card]
                if card.uuid:
                    found.append(_place(host, card, pick))
        return tuple(found)

    def put(self, job: SliceJob, picks: Picks, *, hold: bool = False) -> list[tuple[Card, Tenant]]:
        """The job has the picks from now on, or with `hold` they are kept for it."""
        done: list[tuple[Card, Tenant]] = []
        for number, chosen in picks:
            host = self.yard.hosts[number]
            for pick in chosen:
                card = host.cards[pick.card]
                share = pick.share
                percent, memory = (share.percent, share.memory_mib) if share is not None else (0, 0)
                tenant = Tenant(job.id, pick.spot, percent, memory, hold=hold)
                card.touched = True
                card.put(tenant)
                done.append((card, tenant))
            self.site.changed(number)
        return done

    def take_beside(self, picks: Picks, request: Request) -> None:
        """CPUs and memory of the hosts go with the slices."""
        for number, _ in picks:
            self.yard.hosts[number].take(request.cpus, request.memory_mib)
            self.site.changed(number)

    def on_host(self, job_id: str, number: int) -> tuple[int, int]:
        """CPUs and memory that the job gives back on the host when it leaves."""
        job, name = self.jobs.get(job_id), self.yard.hosts[number].name
        if job is None or all(place.node != name for place in job.places):
            return 0, 0
        return job.cpus, job.memory_per_node_mib

    def asks(self, job: SliceJob, gpu_type: str | None) -> PartsByType:
        """What the job would count at most, as quotas are asked."""
        return {gpu_type or "": self.shadows[job.id].gpus}


def _on_its_way_out(job: SliceJob) -> bool:
    if job.state is JobState.COMPLETING:
        return True
    return job.evicting_for is not None and job.state in HOLDING


def _place(host: Host, card: Card, pick: Pick) -> SlicePlace:
    if pick.spot is not None and card.kind is not None:
        profile = card.kind.profiles[pick.spot.profile].name
        return SlicePlace(node=host.name, gpu=card.uuid, profile=profile, start=pick.spot.start)
    share = pick.share
    percent, memory = (share.percent, share.memory_mib) if share is not None else (0, 0)
    return SlicePlace(node=host.name, gpu=card.uuid, share_pct=percent, memory_mib=memory)
