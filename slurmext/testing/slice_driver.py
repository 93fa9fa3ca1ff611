"""A SliceDriver in memory, for tests that need no processes: what NVML would say, without NVML."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from slurmext.errors import GpuDriverError, GpuInUse, GpuNeedsReset, GpuOtherInstance, GpuPlaceTaken, SlurmextError
from slurmext.model.mig import GpuCard, GpuProcess, MigInstance, SliceUse
from slurmext.model.slicing import Geometry, Profile
from slurmext.testing.nvml.cards import card_of
from slurmext.testing.slicing import geometry_of

_AMPERE_ENDS = 90


@dataclass(slots=True)
class _Gpu:
    card: GpuCard
    needs_reset: bool
    geometry: Geometry | None
    made: dict[int, MigInstance] = field(default_factory=dict)
    processes: dict[int, list[GpuProcess]] = field(default_factory=dict)
    use: dict[int, SliceUse] = field(default_factory=dict)


BARE = -1
"""In place of an instance's id: the whole GPU."""


class FakeSliceDriver:
    """One GPU for each type, `FakeSliceDriver(("h100", "a30"))`, in MIG mode unless `mig` is False.

    `fail` has errors that the next calls of a method raise, by its name.
    """

    def __init__(self, gpu_types: Sequence[str], *, mig: bool = True) -> None:
        self.fail: dict[str, list[SlurmextError]] = {}
        self._gpus: dict[str, _Gpu] = {}
        self._numbers = itertools.count()
        for index, gpu_type in enumerate(gpu_types):
            card = card_of(gpu_type)
            on = mig if card.mig else None
            name = f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'{gpu_type}/{index}')}"
            described = GpuCard(uuid=name, minor=index, index=index, name=card.name, memory_mib=card.memory_mib,
                                sm=card.sm, mig=on, mig_pending=on)  # fmt: skip
            self._gpus[name] = _Gpu(described, card.architecture < _AMPERE_ENDS, geometry_of(card))

    def hold(self, gpu: str, pid: int, instance: MigInstance | None = None, *, memory_mib: int | None = None) -> None:
        """Let a process have the GPU or instance open until `let_go`."""
        key = BARE if instance is None else instance.gi
        self._gpus[gpu].processes.setdefault(key, []).append(GpuProcess(pid=pid, memory_mib=memory_mib))

    def let_go(self, gpu: str) -> None:
        """Let nobody have it open."""
        self._gpus[gpu].processes.clear()

    def set_use(self, instance: MigInstance, use: SliceUse) -> None:
        """What is measured of an instance."""
        self._gpus[instance.gpu].use[instance.gi] = use

    def cards(self) -> tuple[GpuCard, ...]:
        """The GPUs, by minor number."""
        self._raise("cards")
        return tuple(
            replace(gpu.card, geometry=None if gpu.needs_reset and not gpu.card.mig else gpu.geometry)
            for gpu in self._gpus.values()
        )

    def instances(self, gpu: str) -> tuple[MigInstance, ...]:
        """Every instance there."""
        self._raise("instances")
        return tuple(sorted(self._at(gpu).made.values(), key=lambda one: one.start))

    def create(self, gpu: str, profile: str, start: int) -> MigInstance:
        """Make an instance exactly there. Raises GpuPlaceTaken, GpuInUse."""
        self._raise("create")
        there = self._at(gpu)
        known = there.geometry.profile(profile) if there.geometry is not None and there.card.mig else None
        if known is None or start not in known.starts or not self._fits(there, known, start):
            raise GpuPlaceTaken(f"make {profile} at {start} on {gpu}: taken or not legal")
        if there.processes.get(BARE):
            raise GpuInUse(f"make {profile} at {start} on {gpu}: in use")
        gi = next(number for number in itertools.count(1) if number not in there.made)
        made = MigInstance(gpu=gpu, profile=profile, profile_id=known.profile_id, start=start, gi=gi, ci=0,
                           uuid=f"MIG-{uuid.uuid5(uuid.NAMESPACE_OID, str(next(self._numbers)))}")  # fmt: skip
        there.made[gi] = made
        return made

    def destroy(self, instance: MigInstance) -> None:
        """Take it away. Raises GpuOtherInstance, GpuInUse."""
        self._raise("destroy")
        there = self._at(instance.gpu)
        found = there.made.get(instance.gi)
        if found is None:
            return
        if (found.profile, found.start, found.uuid) != (instance.profile, instance.start, instance.uuid):
            raise GpuOtherInstance(f"instance {instance.gi} on {instance.gpu} is another one now")
        if there.processes.get(instance.gi):
            raise GpuInUse(f"instance {instance.gi} on {instance.gpu} is in use")
        del there.made[instance.gi]

    def set_mig(self, gpu: str, *, on: bool) -> None:
        """Change the mode. Raises GpuInUse, GpuNeedsReset."""
        self._raise("set_mig")
        there = self._at(gpu)
        if there.card.mig is None:
            raise GpuDriverError(f"{gpu} has no MIG mode")
        if there.card.mig == on:
            return
        if there.needs_reset:
            raise GpuNeedsReset(f"{gpu} changes it with a reset only")
        if there.made or any(there.processes.values()):
            raise GpuInUse(f"{gpu} is in use")
        there.card = replace(there.card, mig=on, mig_pending=on)

    def processes(self, gpu: str, instance: MigInstance | None = None) -> tuple[GpuProcess, ...]:
        """Processes on a whole GPU, or on one instance."""
        self._raise("processes")
        there = self._at(gpu).processes
        lists = there.values() if instance is None else [there.get(instance.gi, [])]
        return tuple(sorted((one for found in lists for one in found), key=lambda one: one.pid))

    def use(self, gpu: str, instance: MigInstance | None = None) -> SliceUse:
        """What `set_use` said."""
        self._raise("use")
        return self._at(gpu).use.get(BARE if instance is None else instance.gi, SliceUse())

    def release(self) -> None:
        """Nothing to let go of."""

    def _at(self, gpu: str) -> _Gpu:
        try:
            return self._gpus[gpu]
        except KeyError:
            raise GpuDriverError(f"no GPU {gpu}") from None

    def _raise(self, method: str) -> None:
        if errors := self.fail.get(method):
            raise errors.pop(0)

    def _fits(self, there: _Gpu, wanted: Profile, start: int) -> bool:
        taken: set[int] = set()
        slices = wanted.compute_slices
        for made in there.made.values():
            known = there.geometry.profile(made.profile) if there.geometry is not None else None
            if known is not None:
                taken |= set(range(made.start, made.start + known.memory_units))
                slices += known.compute_slices
        free = taken.isdisjoint(range(start, start + wanted.memory_units))
        return free and there.geometry is not None and slices <= there.geometry.compute_slices
