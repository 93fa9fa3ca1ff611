"""A SliceDriver over pynvml.

Instances are found by what NVML lists, also those without a compute instance, and by the UUID that making them
returned: walking a GPU's MIG devices by index takes seconds under load and misses the ones that are not whole.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential

from slurmext.adapters.nvml.geometry import read_geometry
from slurmext.adapters.nvml.gpm import SmMeter
from slurmext.adapters.nvml.session import Session
from slurmext.errors import GpuDriverError, GpuInUse, GpuNeedsReset, GpuOtherInstance, GpuPlaceTaken, SlurmextError
from slurmext.model.mig import GpuCard, GpuProcess, MigInstance, SliceUse
from slurmext.model.slicing import Geometry, Profile

log = logging.getLogger(__name__)

_MIB = 1 << 20
_MOST_INSTANCES = 64
_COMPUTE_IDS = range(8)
_NOT_FOUND, _NOT_SUPPORTED, _IN_USE, _INVALID_ARGUMENT, _FUNCTION_NOT_FOUND = 6, 3, 19, 2, 13
_COMPUTE_PROFILES = {1: 0, 2: 1, 3: 2, 4: 3, 7: 4, 8: 5, 6: 6}
"""Slices -> NVML_COMPUTE_INSTANCE_PROFILE_*. There are two more with 1 and 7 slices (REV1, NVL): the driver lists
them on cards where making one fails."""
_CORES_OF_SM = {(7, 5): 64, (8, 0): 64}
"""By CUDA compute capability; 128 in the others since Ampere."""
_HOPPER = 9
_T = TypeVar("_T")


class NvmlSliceDriver:
    """Opens NVML when first asked and keeps it open until `release`. What is in use is tried again for `patience_s`."""

    def __init__(self, *, patience_s: float = 2.0) -> None:
        self._session = Session()
        self._patience_s = patience_s
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._geometries: dict[tuple[int, str], Geometry] = {}
        self._meter = SmMeter()

    def cards(self) -> tuple[GpuCard, ...]:
        """The GPUs that answer, by minor number."""
        found: list[GpuCard] = []
        with self._session.open("list GPUs") as nvml:
            for index in range(nvml.nvmlDeviceGetCount()):
                try:
                    found.append(self._card(nvml, index))
                except nvml.NVMLError as error:
                    log.warning("GPU with index %s: %s; it is not used for slices", index, error)
        return tuple(sorted(found, key=lambda card: card.minor))

    def instances(self, gpu: str) -> tuple[MigInstance, ...]:
        """Every GPU instance that exists there, also those without a compute instance; none where MIG is off."""
        with self._session.open(f"list instances of {gpu}") as nvml:
            handle = nvml.nvmlDeviceGetHandleByUUID(gpu)
            geometry = self._geometry(nvml, gpu, handle)
            if geometry is None or not _mode(nvml, handle)[0]:
                return ()
            found = [
                _described(nvml, gpu, instance, profile)
                for profile in geometry.profiles
                for instance in _gpu_instances(nvml, handle, profile.profile_id)
            ]
        return tuple(sorted((one for one in found if one is not None), key=lambda one: one.start))

    def create(self, gpu: str, profile: str, start: int) -> MigInstance:
        """Make a GPU instance exactly there and the compute instance that fills it.

        Raises GpuPlaceTaken (also for a place that is not legal), GpuInUse, GpuDriverError. What a failure left behind
        is taken away again if that is possible.
        """
        doing = f"make {profile} at {start} on {gpu}"
        with self._locks[gpu], self._session.open(doing) as nvml:
            handle = nvml.nvmlDeviceGetHandleByUUID(gpu)
            geometry = self._geometry(nvml, gpu, handle)
            known = None if geometry is None else geometry.profile(profile)
            if known is None:
                names = ", ".join(one.name for one in geometry.profiles) if geometry else "none, it is not in MIG mode"
                raise GpuPlaceTaken(f"{doing}: no such profile; the card has {names}")
            if start not in known.starts:
                raise GpuPlaceTaken(f"{doing}: a {profile} starts at one of {', '.join(map(str, known.starts))}")
            place = nvml.c_nvmlGpuInstancePlacement_t(start, known.memory_units)
            instance = self._patient(
                nvml,
                lambda: nvml.nvmlDeviceCreateGpuInstanceWithPlacement(handle, known.profile_id, ctypes.byref(place)),
            )
            try:
                return self._fill(nvml, gpu, instance, known, start)
            except (nvml.NVMLError, SlurmextError):
                self._undo(nvml, instance, doing)
                raise

    def destroy(self, instance: MigInstance) -> None:
        """Take the instance away: compute instance, then GPU instance. Nothing happens when it is gone already.

        Raises GpuOtherInstance when what is there has another UUID or place, GpuInUse when a process still has it.
        """
        gpu, doing = instance.gpu, f"destroy {instance.profile} at {instance.start} on {instance.gpu}"
        with self._locks[gpu], self._session.open(doing) as nvml:
            handle = nvml.nvmlDeviceGetHandleByUUID(gpu)
            try:
                made = nvml.nvmlDeviceGetGpuInstanceById(handle, instance.gi)
                info = nvml.nvmlGpuInstanceGetInfo(made)
            except nvml.NVMLError as error:
                if error.value in {_NOT_FOUND, _NOT_SUPPORTED}:  # gone, or with the mode
                    return
                raise
            if (info.profileId, info.placement.start) != (instance.profile_id, instance.start):
                raise GpuOtherInstance(f"{doing}: GPU instance {instance.gi} is another one now; it is left alone")
            computes = _computes(nvml, made)
            if any((ci, uuid) != (instance.ci, instance.uuid) for ci, uuid, _ in computes):
                others = ", ".join(uuid for _, uuid, _ in computes)
                raise GpuOtherInstance(f"{doing}: there is {others}, not {instance.uuid or 'nothing'}; left alone")
            for _, _, compute in computes:
                self._patient(nvml, lambda compute=compute: nvml.nvmlComputeInstanceDestroy(compute), gone=True)
            # The driver may call it in use for a moment longer than its compute instance.
            self._patient(nvml, lambda: nvml.nvmlGpuInstanceDestroy(made), gone=True)
            self._meter.forget(nvml, self._session.generation, instance)

    def set_mig(self, gpu: str, *, on: bool) -> None:
        """Change the mode of a GPU that nobody uses. Raises GpuInUse, GpuNeedsReset (it stays as it was).

        Before Hopper a change resets the GPU, so it is refused there: the site does it when the node boots.
        """
        doing = f"turn MIG mode {'on' if on else 'off'} on {gpu}"
        with self._locks[gpu], self._session.open(doing) as nvml:
            handle = nvml.nvmlDeviceGetHandleByUUID(gpu)
            current, pending = _mode(nvml, handle)
            if current is None:
                raise GpuDriverError(f"{doing}: this card has no MIG mode")
            if current == on == pending:
                return
            if nvml.nvmlDeviceGetCudaComputeCapability(handle)[0] < _HOPPER:
                raise GpuNeedsReset(
                    f"{doing}: this card changes it with a reset only; before slurmd starts: "
                    f"nvidia-smi -i {gpu} -mig {int(on)}"
                )
            if users := _processes(nvml, handle):
                pids = ", ".join(str(user.pid) for user in users)
                raise GpuInUse(f"{doing}: processes have it open: {pids}")
            if current and not on and self._any_instance(nvml, gpu, handle):
                raise GpuInUse(f"{doing}: there are instances on it")
            status = nvml.nvmlDeviceSetMigMode(handle, int(on))
            if status == nvml.NVML_SUCCESS and _mode(nvml, handle)[0] == on:
                return
            nvml.nvmlDeviceSetMigMode(handle, int(current))  # or it would change at some later reset
        if status == _IN_USE:
            raise GpuInUse(f"{doing}: the driver says it is in use")
        raise GpuNeedsReset(f"{doing}: the driver wants a reset first (activation status {status})")

    def processes(self, gpu: str, instance: MigInstance | None = None) -> tuple[GpuProcess, ...]:
        """Processes on a whole GPU, or on one instance."""
        with self._session.open(f"list processes on {gpu}") as nvml:
            if instance is not None and instance.uuid:
                return _processes(nvml, nvml.nvmlDeviceGetHandleByUUID(instance.uuid))
            handle = nvml.nvmlDeviceGetHandleByUUID(gpu)
            return _processes(nvml, handle, None if instance is None else instance.gi)

    def use(self, gpu: str, instance: MigInstance | None = None) -> SliceUse:
        """Memory in use now, and SM use since this was last asked (None at first, and where the card has no GPM)."""
        with self._session.open(f"measure {gpu}") as nvml:
            whole = nvml.nvmlDeviceGetHandleByUUID(gpu)
            handle = nvml.nvmlDeviceGetHandleByUUID(instance.uuid) if instance is not None and instance.uuid else whole
            try:
                memory_mib = nvml.nvmlDeviceGetMemoryInfo(handle).used // _MIB
            except nvml.NVMLError as error:
                if error.value != _NOT_SUPPORTED:
                    raise
                memory_mib = None
            sm_pct = self._meter.read(nvml, self._session.generation, whole, gpu, instance)
        return SliceUse(memory_mib=memory_mib, sm_pct=sm_pct)

    def release(self) -> None:
        """Let go of the driver until the next call."""
        self._session.release()

    def _card(self, nvml: Any, index: int) -> GpuCard:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        current, pending = _mode(nvml, handle)
        geometry = None if current is None else self._geometry(nvml, uuid, handle)
        return GpuCard(
            uuid=uuid,
            minor=nvml.nvmlDeviceGetMinorNumber(handle),
            index=index,
            name=_text(nvml.nvmlDeviceGetName(handle)),
            memory_mib=nvml.nvmlDeviceGetMemoryInfo(handle).total // _MIB,
            sm=_sm(nvml, handle, geometry),
            mig=current,
            mig_pending=pending,
            geometry=geometry,
        )

    def _geometry(self, nvml: Any, gpu: str, handle: Any) -> Geometry | None:
        key = (self._session.generation, gpu)
        known = self._geometries.get(key)
        if known is None:
            known = read_geometry(nvml, handle, nvml.nvmlDeviceGetMemoryInfo(handle).total // _MIB)
            if known is not None:
                self._geometries[key] = known
        return known

    def _any_instance(self, nvml: Any, gpu: str, handle: Any) -> bool:
        geometry = self._geometry(nvml, gpu, handle)
        return geometry is None or any(_gpu_instances(nvml, handle, one.profile_id) for one in geometry.profiles)

    def _fill(self, nvml: Any, gpu: str, instance: Any, profile: Profile, start: int) -> MigInstance:
        number = _COMPUTE_PROFILES.get(profile.compute_slices)
        info = nvml.nvmlGpuInstanceGetInfo(instance)
        if number is None or info.placement.start != start:
            raise GpuDriverError(
                f"make {profile.name} at {start} on {gpu}: the driver made it at {info.placement.start}"
            )
        wanted = _compute_profile(nvml, instance, number)
        compute = self._patient(nvml, lambda: nvml.nvmlGpuInstanceCreateComputeInstance(instance, wanted))
        made = nvml.nvmlComputeInstanceGetInfo(compute)
        return MigInstance(
            gpu=gpu,
            profile=profile.name,
            profile_id=profile.profile_id,
            start=start,
            gi=info.id,
            ci=made.id,
            uuid=_text(nvml.nvmlDeviceGetUUID(made.device)),
        )

    def _undo(self, nvml: Any, instance: Any, doing: str) -> None:
        try:
            for _, _, compute in _computes(nvml, instance):
                self._patient(nvml, lambda compute=compute: nvml.nvmlComputeInstanceDestroy(compute), gone=True)
            self._patient(nvml, lambda: nvml.nvmlGpuInstanceDestroy(instance), gone=True)
        except nvml.NVMLError as error:
            log.warning("%s: what was made of it stays behind for now: %s", doing, error)

    def _patient(self, nvml: Any, call: Callable[[], _T], *, gone: bool = False) -> _T | None:
        """The call, again while it says "in use". With `gone`, what is not found is what was wanted."""
        retrying = Retrying(
            stop=stop_after_delay(self._patience_s),
            wait=wait_exponential(multiplier=0.02, max=0.5),
            retry=retry_if_exception(_is_in_use),
            reraise=True,
        )
        try:
            return retrying(call)
        except nvml.NVMLError as error:
            if gone and error.value == _NOT_FOUND:
                return None
            raise


def _is_in_use(error: BaseException) -> bool:
    return getattr(error, "value", None) == _IN_USE


def _mode(nvml: Any, handle: Any) -> tuple[bool | None, bool | None]:
    """Whether it is in MIG mode and will be after a reset; None, None where there is no such mode."""
    try:
        current, pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError as error:
        if error.value in {_NOT_SUPPORTED, _FUNCTION_NOT_FOUND}:
            return None, None
        raise
    return current == nvml.NVML_DEVICE_MIG_ENABLE, pending == nvml.NVML_DEVICE_MIG_ENABLE


def _sm(nvml: Any, handle: Any, geometry: Geometry | None) -> int:
    try:
        cores = nvml.nvmlDeviceGetNumGpuCores(handle)
        return cores // _CORES_OF_SM.get(tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)), 128)
    except nvml.NVMLError:
        return max((one.sm for one in geometry.profiles), default=0) if geometry else 0


def _gpu_instances(nvml: Any, handle: Any, profile_id: int) -> list[Any]:
    found, count = (nvml.c_nvmlGpuInstance_t * _MOST_INSTANCES)(), ctypes.c_uint(_MOST_INSTANCES)
    try:
        nvml.nvmlDeviceGetGpuInstances(handle, profile_id, found, ctypes.byref(count))
    except nvml.NVMLError as error:
        if error.value in {_NOT_SUPPORTED, _INVALID_ARGUMENT}:  # the mode is off, or a profile of another board
            return []
        raise
    return [found[at] for at in range(count.value)]


def _computes(nvml: Any, instance: Any) -> list[tuple[int, str, Any]]:
    """Id, UUID and handle of the compute instances in a GPU instance."""
    found: list[tuple[int, str, Any]] = []
    for ci in _COMPUTE_IDS:
        try:
            compute = nvml.nvmlGpuInstanceGetComputeInstanceById(instance, ci)
            device = nvml.nvmlComputeInstanceGetInfo(compute).device
            found.append((ci, _text(nvml.nvmlDeviceGetUUID(device)), compute))
        except nvml.NVMLError as error:
            if error.value not in {_NOT_FOUND, _INVALID_ARGUMENT}:
                raise
    return found


def _described(nvml: Any, gpu: str, instance: Any, profile: Profile) -> MigInstance | None:
    try:
        info = nvml.nvmlGpuInstanceGetInfo(instance)
        computes = _computes(nvml, instance)
        whole = len(computes) == 1 and _fills(nvml, computes[0][2], profile)
    except nvml.NVMLError as error:
        if error.value == _NOT_FOUND:  # destroyed since it was listed
            return None
        raise
    ci, uuid, _ = computes[0] if whole else (None, "", None)
    return MigInstance(gpu=gpu, profile=profile.name, profile_id=profile.profile_id, start=info.placement.start,
                       gi=info.id, ci=ci, uuid=uuid)  # fmt: skip


def _fills(nvml: Any, compute: Any, profile: Profile) -> bool:
    return nvml.nvmlComputeInstanceGetInfo(compute).placement.size == profile.compute_slices


def _compute_profile(nvml: Any, instance: Any, number: int) -> int:
    shared = nvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
    try:
        return nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, number, shared, version=2).id
    except nvml.NVMLError as error:
        if error.value not in {_FUNCTION_NOT_FOUND, 25}:
            raise
        return nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, number, shared, version=1).id


def _processes(nvml: Any, handle: Any, gi: int | None = None) -> tuple[GpuProcess, ...]:
    """Compute and graphics processes, by pid; with `gi` those on that instance."""
    found: dict[int, int | None] = {}
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        try:
            for one in ask(handle):
                if gi is None or one.gpuInstanceId == gi:
                    found[one.pid] = None if one.usedGpuMemory is None else one.usedGpuMemory // _MIB
        except nvml.NVMLError as error:
            if error.value not in {_NOT_SUPPORTED, _FUNCTION_NOT_FOUND}:
                raise
    return tuple(GpuProcess(pid=pid, memory_mib=memory_mib) for pid, memory_mib in sorted(found.items()))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
