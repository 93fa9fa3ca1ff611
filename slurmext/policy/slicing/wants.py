"""What each job asks for, worked out once for jobs that are alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import ceil

from slurmext.model.job import JobState
from slurmext.model.plan import Reason
from slurmext.model.slicing import GpuUse, SliceDemand, SliceJob, SliceNeed, SlicePlace, SliceSnapshot
from slurmext.policy.slicing.cards import FULL_PCT, SharedState, Yard
from slurmext.policy.slicing.finder import Request
from slurmext.policy.slicing.gradient import Group, Mix, shares_in
from slurmext.policy.slicing.kinds import GPU_PARTS
from slurmext.policy.slicing.needs import CardType, Refusal, Wish, asked, wish

_WishKey = tuple[SliceNeed, tuple[str, ...], GpuUse | None]


class Wants:
    """Wishes and requests of a snapshot's jobs."""

    def __init__(self, snapshot: SliceSnapshot, yard: Yard) -> None:
        self._snapshot, self._yard = snapshot, yard
        self._wishes: dict[_WishKey, Wish | Refusal] = {}
        self._requests: dict[tuple[object, ...], Request] = {}
        self._refusals: dict[tuple[object, ...], Refusal | None] = {}

    def wish(self, job: SliceJob | SliceDemand) -> Wish | Refusal:
        """What the job's need means on the cards there are."""
        key = job.need, job.types, job.choice
        found = self._wishes.get(key)
        if found is None:
            prefer = self._snapshot.settings.prefer
            card_types = self._yard.card_types
            found = self._wishes[key] = wish(job.need, card_types, types=job.types, choice=job.choice, prefer=prefer)
        return found

    def requests(self, job: SliceJob, wanted: Wish, types: tuple[str, ...] | None = None) -> list[Request]:
        """One for each use the job could be met by, preferred first. `types` None: as the job says."""
        return [self._request(job, wanted, use, job.types if types is None else types) for use in wanted.uses]

    def _request(self, job: SliceJob, wanted: Wish, use: GpuUse, types: tuple[str, ...]) -> Request:
        key = job.need, job.types, job.choice, use, types, job.cpus, job.memory_per_node_mib, job.candidates
        found = self._requests.get(key)
        if found is None:
            if types != job.types:
                wanted = _only(wanted, types, self._yard.card_types)
            found = self._requests[key] = Request(
                number=len(self._requests),
                wish=wanted,
                use=use,
                per_node=job.need.per_node,
                cpus=job.cpus,
                memory_mib=job.memory_per_node_mib,
                types=types,
                candidates=frozenset(job.candidates),
            )
        return found

    def gpu_types(self, wanted: Wish) -> list[str]:
        """GPU types that could meet the wish, in order of name."""
        numbers = {*wanted.profiles, *wanted.shares}
        return sorted({self._yard.card_types[number].gpu_type for number in numbers})

    def parts(self, job: SliceJob) -> int:
        """The most the whole job may count against quotas, in parts of a GPU."""
        wanted = self.wish(job)
        each = wanted.parts(self._yard.card_types) if isinstance(wanted, Wish) else 0
        return each * job.need.per_node * job.need.nodes

    def too_large(self, job: SliceJob, wanted: Wish) -> Refusal | None:
        """Why the job would not fit even if nothing ran; None when it would."""
        key = job.need, job.types, job.choice, job.candidates
        if key not in self._refusals:
            self._refusals[key] = self._too_large(job, wanted)
        return self._refusals[key]

    def _too_large(self, job: SliceJob, wanted: Wish) -> Refusal | None:
        need = job.need
        rooms = [
            max((self._room(card_types, wanted, use) for use in wanted.uses), default=0)
            for name, card_types in self._yard.all_types.items()
            if not job.candidates or name in job.candidates
        ]
        enough = sum(room >= need.per_node for room in rooms)
        if need.per_node > 0 and need.nodes > 0 and enough >= need.nodes:
            return None
        most = max(rooms, default=0)
        what = f"{need.per_node} x {asked(need)}"
        if most < need.per_node:
            detail = f"{what} on a node is more than any node can hold: {most}"
        else:
            detail = f"{what} on each of {need.nodes} nodes, and {enough} nodes can hold that"
        return Refusal(reason=Reason.SLICE_TOO_LARGE, detail=detail)

    @staticmethod
    def _room(card_types: Iterable[CardType], wanted: Wish, use: GpuUse) -> int:
        room = 0
        for card_type in card_types:
            profile, share = wanted.profiles.get(card_type.number), wanted.shares.get(card_type.number)
            if use is GpuUse.MIG and profile is not None and card_type.kind is not None:
                room += card_type.kind.count(card_type.kind.empty, profile)
            elif use is GpuUse.SHARED and share is not None:
                room += shares_in(FULL_PCT, card_type.memory_mib, share)
        return room

    def mix(self) -> Mix:
        """What requests come: what the snapshot says of the past, else the jobs at hand."""
        demands: Iterable[SliceDemand] = self._snapshot.mix or self._at_hand()
        groups: dict[tuple[object, ...], Group] = {}
        for demand in demands:
            wanted = self.wish(demand)
            if not isinstance(wanted, Wish) or demand.weight <= 0:
                continue
            key = demand.need.per_node, *sorted(wanted.profiles.items()), *sorted(wanted.shares)
            key = (*key, *(share for _, share in sorted(wanted.shares.items(), key=lambda pair: pair[0])))
            parts = wanted.parts(self._yard.card_types) * demand.need.per_node
            group = groups.setdefault(key, Group(wanted, demand.need.per_node, parts))
            group.weight += demand.weight
            group.beside.append((demand.cpus, demand.memory_per_node_mib, demand.weight))
        return Mix(groups.values())

    def _at_hand(self) -> list[SliceDemand]:
        counted: Counter[SliceDemand] = Counter()
        for job in self._snapshot.jobs:
            if job.state in {JobState.PENDING, JobState.RUNNING}:
                counted[
                    SliceDemand(
                        need=job.need,
                        cpus=job.cpus,
                        memory_per_node_mib=job.memory_per_node_mib,
                        types=job.types,
                        choice=job.choice,
                    )
                ] += 1
        return [
            SliceDemand(
                need=demand.need,
                weight=count,
                cpus=demand.cpus,
                memory_per_node_mib=demand.memory_per_node_mib,
                types=demand.types,
                choice=demand.choice,
            )
            for demand, count in sorted(counted.items(), key=lambda pair: repr(pair[0]))
        ]

    def parts_of(self, places: Iterable[SlicePlace]) -> dict[tuple[str, str], int]:
        """What places count against quotas, by (node, GPU type)."""
        found: dict[tuple[str, str], int] = {}
        for place in places:
            card_type = self._yard.type_of.get(place.gpu)
            if card_type is None:
                continue
            if place.profile is None:
                memory = GPU_PARTS * (place.memory_mib or 0) / (card_type.memory_mib or 1)
                parts = min(GPU_PARTS, max((place.share_pct or 0) * GPU_PARTS // FULL_PCT, ceil(memory)))
            else:
                number = None if card_type.kind is None else card_type.kind.number.get(place.profile)
                parts = 0 if number is None or card_type.kind is None else card_type.kind.parts[number]
            key = place.node, card_type.gpu_type
            found[key] = found.get(key, 0) + parts
        return found


def _only(wanted: Wish, types: tuple[str, ...], card_types: list[CardType]) -> Wish:
    """The wish on cards of these GPU types alone."""
    keep = {card_type.number for card_type in card_types if card_type.gpu_type in types}
    return Wish(
        need=wanted.need,
        uses=wanted.uses,
        profiles={number: profile for number, profile in wanted.profiles.items() if number in keep},
        shares={number: share for number, share in wanted.shares.items() if number in keep},
        why=wanted.why,
    )


def idle_parts(yard: Yard) -> dict[str, int]:
    """What of the GPUs no job has, by type, in parts."""
    found: dict[str, int] = {}
    for host in yard.hosts:
        for card in host.cards:
            if card.use is None:
                free = GPU_PARTS
            elif card.use is GpuUse.SHARED:
                free = _shared_free(card.shared, card.card_type.memory_mib)
            else:
                free = 0 if card.kind is None else card.kind.free_parts(card.mig)
            found[card.card_type.gpu_type] = found.get(card.card_type.gpu_type, 0) + free
    return found


def _shared_free(shared: SharedState, memory_mib: int) -> int:
    memory = (memory_mib - shared.memory_mib) * GPU_PARTS // (memory_mib or 1)
    return max(0, min((FULL_PCT - shared.percent) * GPU_PARTS // FULL_PCT, memory))
