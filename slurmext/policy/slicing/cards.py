"""What is free where: cards and nodes as a plan changes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from slurmext.model.node import NodeState
from slurmext.model.slicing import (
    GpuUse,
    Instance,
    InstanceState,
    SlicedGpu,
    SliceNode,
    SlicePlace,
    SliceSnapshot,
)
from slurmext.policy.slicing.kinds import CardState, Kind, Spot, kind_of
from slurmext.policy.slicing.needs import CardType

HELD = frozenset({InstanceState.BUSY, InstanceState.RESERVED, InstanceState.FOREIGN, InstanceState.UNKNOWN})
"""Instances whose place is not free."""

FULL_PCT = 100


@dataclass(frozen=True, slots=True)
class SharedState:
    """What of a shared card is taken."""

    percent: int
    memory_mib: int


@dataclass(slots=True, eq=False)
class Tenant:
    """A job's part of a card: a spot of it, or a share. `hold`: kept for it, others may still be there, and those are
    `leaving`: what they have is spoken for.
    """

    job: str
    spot: Spot | None
    percent: int = 0
    memory_mib: int = 0
    hold: bool = False
    leaving: bool = False


@dataclass(slots=True, eq=False)
class Card:
    """A GPU. `stage` 0: slices go there now; 1: it is on its way into sliced use; 2: idle, and could be taken.

    `use` None: an idle one that is made whatever is needed. `warm` are instances that nobody has.
    """

    node: int
    position: int
    card_type: CardType
    uuid: str
    stage: int
    use: GpuUse | None
    mig: CardState
    shared: SharedState
    tenants: list[Tenant] = field(default_factory=list[Tenant])
    warm: tuple[tuple[Spot, str], ...] = ()
    touched: bool = False
    """Something of this plan goes there."""
    gpu: SlicedGpu | None = None
    strange: bool = False
    """It has an instance that its geometry does not know: no MIG on it."""
    closing: bool = False
    """Nothing new goes there: the pool shrinks, or a whole-GPU job is to get it."""
    owed: str = ""
    """That job."""

    @property
    def kind(self) -> Kind | None:
        """How it can be cut; None when it cannot."""
        return None if self.strange else self.card_type.kind

    @property
    def empty(self) -> bool:
        """No job has or awaits a part of it, and nobody else made an instance there."""
        return not self.tenants and not self.touched and not self.strange

    def signature(self) -> tuple[object, ...]:
        """Cards with the same one are worth the same."""
        kind = self.card_type.number, self.stage, self.use, self.closing, not self.tenants
        if self.use is GpuUse.SHARED:
            return *kind, self.shared
        return *kind, self.mig, self.strange, tuple(spot for spot, _ in self.warm)

    def put(self, tenant: Tenant) -> None:
        """A job gets a part of the card."""
        self.tenants.append(tenant)
        self.recount()

    def remove(self, tenant: Tenant, *, warm: bool = False) -> None:
        """A job leaves the card; with `warm` its instance stays for the next."""
        self.tenants.remove(tenant)
        if warm and tenant.spot is not None:
            self.warm = (*self.warm, (tenant.spot, ""))
        self.recount()

    def recount(self) -> None:
        """What is taken, from who is there."""
        self.mig, self.shared = self.taken_by(self.tenants)

    def taken_by(self, tenants: Iterable[Tenant]) -> tuple[CardState, SharedState]:
        """What is taken when these are there. What is left for a hold is counted once, as the larger of both."""
        listed = list(tenants)
        here = [tenant for tenant in listed if not tenant.hold]
        if len(here) == len(listed):
            return self._sum(here)
        now, then = self._sum(here), self._sum([t for t in listed if not t.leaving])
        special = tuple(max(pair) for pair in zip(now[0].special, then[0].special, strict=True))
        mig = CardState(now[0].mask | then[0].mask, max(now[0].compute, then[0].compute), special)
        shared = SharedState(max(now[1].percent, then[1].percent), max(now[1].memory_mib, then[1].memory_mib))
        return mig, shared

    def _sum(self, tenants: Iterable[Tenant]) -> tuple[CardState, SharedState]:
        kind = self.kind
        mig = CardState(0, 0, ()) if kind is None else kind.empty
        percent = memory_mib = 0
        for tenant in tenants:
            if tenant.spot is None:
                percent, memory_mib = percent + tenant.percent, memory_mib + tenant.memory_mib
            elif kind is not None:
                mig = kind.put(mig, tenant.spot)
        return mig, SharedState(percent, memory_mib)


@dataclass(slots=True, eq=False)
class Host:
    """A node: what of it is free, and its cards in order. None: not limited, or not known."""

    name: str
    cpus: int | None
    memory_mib: int | None
    cards: list[Card]

    def has(self, cpus: int, memory_mib: int) -> bool:
        """Whether so much is free beside the GPUs."""
        return (self.cpus is None or self.cpus >= cpus) and (self.memory_mib is None or self.memory_mib >= memory_mib)

    def take(self, cpus: int, memory_mib: int) -> None:
        """A job uses so much of it."""
        self.cpus = None if self.cpus is None else self.cpus - cpus
        self.memory_mib = None if self.memory_mib is None else self.memory_mib - memory_mib


class Yard:
    """All hosts and cards of a snapshot that slices may go to, in order of name whatever the order of the lists."""

    def __init__(self, snapshot: SliceSnapshot) -> None:
        self.card_types: list[CardType] = []
        self._types: dict[tuple[str, int, int, Kind | None], CardType] = {}
        self._kinds: dict[int, Kind] = {}  # by id: to hash a geometry for every GPU would take longer than to plan
        self.hosts: list[Host] = []
        self.cards: dict[str, Card] = {}
        self.type_of: dict[str, CardType] = {}
        """Of every GPU, by UUID."""
        self.all_types: dict[str, tuple[CardType, ...]] = {}
        """Of every node, whatever is done with its GPUs."""
        self.busy: dict[str, list[CardType]] = {}
        """GPUs of hosts, by name, that whole-GPU jobs have."""
        self.unknown = False
        """Some GPU's use is not known."""
        gpus: dict[str, list[SlicedGpu]] = {}
        for gpu in snapshot.gpus:
            gpus.setdefault(gpu.node, []).append(gpu)
        for node in sorted(snapshot.nodes, key=lambda node: node.name):
            there = sorted(gpus.get(node.name, ()), key=lambda gpu: (gpu.minor, gpu.uuid))
            if node.state is NodeState.UP:
                self.hosts.append(self._host(node, there, snapshot))
            else:
                for gpu in there:
                    self._type_of(gpu)
            self.all_types[node.name] = tuple(self._type_of(gpu) for gpu in there)
        self.number = {host.name: n for n, host in enumerate(self.hosts)}

    def _type_of(self, gpu: SlicedGpu) -> CardType:
        geometry = gpu.geometry
        kind = None if geometry is None else self._kinds.get(id(geometry))
        if geometry is not None and kind is None:
            kind = self._kinds[id(geometry)] = kind_of(geometry)
        key = gpu.gpu_type, gpu.memory_mib, gpu.sm, kind
        found = self._types.get(key)
        if found is None:
            found = self._types[key] = CardType(len(self.card_types), gpu.gpu_type, gpu.memory_mib, gpu.sm, kind)
            self.card_types.append(found)
        self.type_of[gpu.uuid] = found
        return found

    def _host(self, node: SliceNode, gpus: Iterable[SlicedGpu], snapshot: SliceSnapshot) -> Host:
        host = Host(node.name, node.free_cpus, node.free_memory_mib, [])
        whole: dict[str, list[CardType]] = {}
        turning = {take.gpu: take.use for take in snapshot.taking if take.gpu}
        for gpu in gpus:
            card_type = self._type_of(gpu)
            turned = turning.get(gpu.uuid)
            if turned is not None and not gpu.leaving:
                self._add(host, card_type, gpu.uuid, 1, turned, gpu)
            elif gpu.use is GpuUse.UNKNOWN:
                self.unknown = True
            elif gpu.use is GpuUse.WHOLE:
                whole.setdefault(gpu.gpu_type, []).append(card_type)
            elif not gpu.leaving:
                self._add(host, card_type, gpu.uuid, 0, gpu.use, gpu)
        self._add_whole(host, {} if node.shut else node.idle_gpus, whole, snapshot)
        if node.shut:
            self.busy.pop(host.name, None)
        return host

    def _add_whole(
        self, host: Host, idle: Mapping[str, int], whole: Mapping[str, list[CardType]], snapshot: SliceSnapshot
    ) -> None:
        """GPUs on their way into sliced use, then idle ones. Slurm says how many of a type, not which."""
        for gpu_type in sorted(whole):
            left = list(whole[gpu_type])
            for take in snapshot.taking:
                if take.node == host.name and take.gpu_type == gpu_type and not take.gpu and left:
                    self._add(host, left.pop(0), "", 1, take.use, None)
            unused = max(0, idle.get(gpu_type, 0))
            for card_type in left[:unused]:
                self._add(host, card_type, "", 2, None, None)
            self.busy.setdefault(host.name, []).extend(left[unused:])

    def vacate(self, number: int, card_type: CardType, use: GpuUse) -> Card:
        """A GPU that a whole-GPU job of the host has will be in sliced use."""
        host = self.hosts[number]
        self.busy[host.name].remove(card_type)
        return self._add(host, card_type, "", 1, use, None, number)

    def _add(
        self,
        host: Host,
        card_type: CardType,
        uuid: str,
        stage: int,
        use: GpuUse | None,
        gpu: SlicedGpu | None,
        number: int | None = None,
    ) -> Card:
        kind = card_type.kind
        card = Card(
            node=len(self.hosts) if number is None else number,
            position=len(host.cards),
            card_type=card_type,
            uuid=uuid,
            stage=stage,
            use=use,
            mig=CardState(0, 0, ()) if kind is None else kind.empty,
            shared=SharedState(0, 0),
            gpu=gpu,
        )
        host.cards.append(card)
        if gpu is not None:
            self.cards[uuid] = card
            self._settle(card, gpu)
        return card

    def _settle(self, card: Card, gpu: SlicedGpu) -> None:
        for share in gpu.shares:
            card.put(Tenant(share.job, None, share.percent, share.memory_mib))
        warm: list[tuple[Spot, str]] = []
        for instance in sorted(gpu.instances, key=_held_first):
            spot = None if card.kind is None else card.kind.spot(instance.profile, instance.start)
            if spot is None:
                card.strange = True
                card.tenants.append(Tenant(instance.job, None))
            elif instance.state in HELD:
                card.put(Tenant(instance.job, spot))
            elif not spot.mask & card.mig.mask:
                warm.append((spot, instance.uuid))
        card.warm = tuple(warm)

    def place(self, job: str, places: Iterable[SlicePlace]) -> None:
        """A job has these places; what the cards show of them already is not counted twice."""
        shown: dict[str, int] = {}
        for place in places:
            card = self.cards.get(place.gpu)
            if card is None:
                continue
            if place.profile is not None:
                _place_instance(card, job, place.profile, place.start or 0)
            else:
                had = shown.setdefault(place.gpu, sum(t.job == job and t.spot is None for t in card.tenants))
                shown[place.gpu] = had - 1
                if had <= 0:
                    card.put(Tenant(job, None, place.share_pct or 0, place.memory_mib or 0))


def _place_instance(card: Card, job: str, profile: str, start: int) -> None:
    spot = None if card.kind is None else card.kind.spot(profile, start)
    if spot is None or any(t.spot is not None and t.spot.mask & spot.mask for t in card.tenants):
        return
    card.warm = tuple((other, uuid) for other, uuid in card.warm if not other.mask & spot.mask)
    card.put(Tenant(job, spot))


def _held_first(instance: Instance) -> tuple[bool, int, str]:
    return instance.state not in HELD, instance.start, instance.profile
