"""MIG through unmodified pynvml: each call of the simulated driver, and each way in which it refuses."""

from __future__ import annotations

import ctypes
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pynvml
import pytest

from slurmext.testing.nvml import SimulatedGpus
from slurmext.testing.nvml.cards import CARDS

NewNode = Callable[..., SimulatedGpus]
Handle = Any

SHARED = pynvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
MIG_CARDS = sorted({name: card for name, card in CARDS.items() if card.mig and "80" not in name and "prop" not in name})


@contextmanager
def refused(code: int) -> Iterator[None]:
    """The call fails with this nvmlReturn_t."""
    with pytest.raises(pynvml.NVMLError) as caught:
        yield
    assert caught.value.value == code, caught.value


def node(new_node: NewNode, *cards: str, mig: bool = True) -> tuple[SimulatedGpus, list[Handle]]:
    gpus = new_node(*cards)
    if mig:
        gpus.set_mig(True)
    pynvml.nvmlInit()
    return gpus, [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(len(gpus))]


def place(start: int, size: int) -> Any:
    return ctypes.byref(pynvml.c_nvmlGpuInstancePlacement_t(start, size))


def make(gpu: Handle, profile: int, start: int, size: int) -> Handle:
    return pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, profile, place(start, size))


def fill(instance: Handle, number: int) -> tuple[Handle, Handle]:
    """Compute instance and MIG device."""
    compute = pynvml.nvmlGpuInstanceCreateComputeInstance(instance, number)
    return compute, pynvml.nvmlComputeInstanceGetInfo(compute).device


def listed(gpu: Handle, profile: int) -> list[Handle]:
    found, count = (pynvml.c_nvmlGpuInstance_t * 16)(), ctypes.c_uint(16)
    pynvml.nvmlDeviceGetGpuInstances(gpu, profile, found, ctypes.byref(count))
    return [found[at] for at in range(count.value)]


@pytest.mark.parametrize("card", MIG_CARDS)
def test_profiles_are_the_cards(new_node: NewNode, card: str) -> None:
    """Asked about by number, created by id; unknown numbers end the list, missing ones are holes in it."""
    _, (gpu,) = node(new_node, card)
    found: dict[str, tuple[int, int, int]] = {}
    for number in range(pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
        try:
            info = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, number)
        except pynvml.NVMLError_NotSupported:
            continue
        found[info.name.removeprefix("MIG ")] = (number, info.id, info.sliceCount)
        old = pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, number, version=1)
        assert (old.id, old.memorySizeMB) == (info.id, info.memorySizeMB)
        assert pynvml.nvmlDeviceGetGpuInstanceProfileInfoById(gpu, info.id).name == info.name
    assert found == {row.name: (row.number, row.id, row.slices) for row in CARDS[card].profiles}
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT)


@pytest.mark.parametrize("card", MIG_CARDS)
def test_placements_and_what_fits(new_node: NewNode, card: str) -> None:
    """An empty card takes as many of a profile as the profile says, each at one of its places, with ids of its own."""
    _, (gpu,) = node(new_node, card)
    for row in CARDS[card].profiles:
        count = ctypes.c_uint(0)
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, row.id, None, ctypes.byref(count))
        places = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
        pynvml.nvmlDeviceGetGpuInstancePossiblePlacements(gpu, row.id, places, ctypes.byref(count))
        assert [(one.start, one.size) for one in places] == [(start, row.units) for start in row.starts]
        assert pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, row.id) == row.most
        made = [pynvml.nvmlDeviceCreateGpuInstance(gpu, row.id) for _ in range(row.most)]
        assert pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, row.id) == 0
        infos = [pynvml.nvmlGpuInstanceGetInfo(one) for one in made]
        assert len({info.id for info in infos}) == row.most
        assert {info.placement.start for info in infos} <= set(row.starts)
        with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
            pynvml.nvmlDeviceCreateGpuInstance(gpu, row.id)
        assert len(listed(gpu, row.id)) == row.most
        for one in made:
            pynvml.nvmlGpuInstanceDestroy(one)


def test_ids_come_from_a_pool_for_each_fraction(new_node: NewNode) -> None:
    """As observed on A100 and H100: the whole 0, halves 1 and 2, quarters 3 to 6, eighths 7 to 14."""
    _, (gpu,) = node(new_node, "h100")
    for profile, ids in ((0, {0}), (9, {1, 2}), (14, {3, 4, 5}), (15, {3, 4, 5, 6}), (19, set(range(7, 14)))):
        made = [pynvml.nvmlDeviceCreateGpuInstance(gpu, profile) for _ in ids]
        assert {pynvml.nvmlGpuInstanceGetInfo(one).id for one in made} == ids
        for one in made:
            pynvml.nvmlGpuInstanceDestroy(one)


def test_illegal_and_taken_places_look_the_same(new_node: NewNode) -> None:
    """INSUFFICIENT_RESOURCES for a place that is taken, is not legal, or has no compute slices left."""
    _, (gpu,) = node(new_node, "h100")
    make(gpu, 9, 0, 4)
    for profile, start, size in ((19, 0, 1), (9, 0, 4), (14, 5, 2), (19, 7, 1)):
        with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
            make(gpu, profile, start, size)
    make(gpu, 9, 4, 4)
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        make(gpu, 9, 4, 2)
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        make(gpu, 77, 0, 1)


def test_every_layout_of_a_card_with_eight_units(new_node: NewNode) -> None:
    """Whatever can be made is within 8 memory units and 7 compute slices, and every such set can be made: 78 sets."""
    _, (gpu,) = node(new_node, "a100")
    plain = [row for row in CARDS["a100"].profiles if "+" not in row.name]
    reached: set[tuple[int, ...]] = set()

    def explore(counts: tuple[int, ...], first: int) -> None:
        reached.add(counts)
        for at, row in enumerate(plain):
            for start in row.starts:
                if start < first:
                    continue
                try:
                    made = make(gpu, row.id, start, row.units)
                except pynvml.NVMLError_InsufficientResources:
                    continue
                explore(tuple(count + (here == at) for here, count in enumerate(counts)), start + 1)
                pynvml.nvmlGpuInstanceDestroy(made)

    explore((0,) * len(plain), 0)
    every = itertools.product(*(range(row.most + 1) for row in plain))
    within = {
        counts
        for counts in every
        if sum(count * row.units for count, row in zip(counts, plain, strict=True)) <= 8
        and sum(count * row.slices for count, row in zip(counts, plain, strict=True)) <= 7
    }
    assert reached == within
    assert len(reached) == 78


def test_video_engines_that_are_lent_apart(new_node: NewNode) -> None:
    """One +me on a card; all of them go with none but those that have none."""
    _, (gpu,) = node(new_node, "rtx_pro_6000")
    everything = make(gpu, 65, 0, 3)
    for profile in (14, 21, 47):
        with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
            make(gpu, profile, 3, 3)
    without = make(gpu, 67, 3, 3)
    pynvml.nvmlGpuInstanceDestroy(everything)
    pynvml.nvmlGpuInstanceDestroy(without)
    make(gpu, 21, 0, 3)
    with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
        make(gpu, 21, 3, 3)
    make(gpu, 14, 3, 3)


def test_a_compute_instance_is_a_mig_device(new_node: NewNode) -> None:
    """Its handle has name, UUID, ids, memory, attributes and parent; it is found by UUID and by index."""
    gpus, (gpu,) = node(new_node, "h100")
    _, device = fill(make(gpu, 9, 4, 4), pynvml.NVML_COMPUTE_INSTANCE_PROFILE_3_SLICE)
    uuid = pynvml.nvmlDeviceGetUUID(device)
    assert uuid.startswith("MIG-")
    assert len(uuid) == 40
    assert pynvml.nvmlDeviceGetName(device) == "NVIDIA H100 80GB HBM3 MIG 3g.40gb"
    assert (pynvml.nvmlDeviceGetGpuInstanceId(device), pynvml.nvmlDeviceGetComputeInstanceId(device)) == (1, 0)
    assert pynvml.nvmlDeviceGetMemoryInfo(device).total == 40_448 << 20
    attributes = pynvml.nvmlDeviceGetAttributes(device)
    assert (attributes.multiprocessorCount, attributes.gpuInstanceSliceCount, attributes.memorySizeMB) == (
        60,
        3,
        40_448,
    )
    assert pynvml.nvmlDeviceIsMigDeviceHandle(device).value == 1
    assert pynvml.nvmlDeviceIsMigDeviceHandle(gpu).value == 0
    parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device)
    assert pynvml.nvmlDeviceGetUUID(parent) == gpus.uuid(0)
    for found in (pynvml.nvmlDeviceGetHandleByUUID(uuid), pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)):
        assert pynvml.nvmlDeviceGetUUID(found) == uuid
    for ask in (pynvml.nvmlDeviceGetUtilizationRates, pynvml.nvmlDeviceGetMinorNumber):
        with pytest.raises(pynvml.NVMLError):
            ask(device)
    with refused(pynvml.NVML_ERROR_NOT_SUPPORTED):
        pynvml.nvmlDeviceGetUtilizationRates(gpu)


def test_mig_devices_have_holes(new_node: NewNode) -> None:
    """The index of a destroyed one stays empty until the next is made."""
    _, (gpu,) = node(new_node, "h100")
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 7
    parts = [(instance := make(gpu, 19, start, 1), *fill(instance, 0)) for start in (0, 1, 2)]
    pynvml.nvmlComputeInstanceDestroy(parts[1][1])
    pynvml.nvmlGpuInstanceDestroy(parts[1][0])
    with refused(pynvml.NVML_ERROR_NOT_FOUND):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 1)
    assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 2)) == pynvml.nvmlDeviceGetUUID(
        parts[2][2]
    )
    fill(make(gpu, 19, 5, 1), 0)
    pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 1)
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 7)


def test_handles_are_of_one_generation(new_node: NewNode) -> None:
    """An instance made anew has the ids of the one before, another UUID, and old handles are not found."""
    _, (gpu,) = node(new_node, "h100")
    first = make(gpu, 19, 0, 1)
    compute, device = fill(first, 0)
    uuid = pynvml.nvmlDeviceGetUUID(device)
    pynvml.nvmlComputeInstanceDestroy(compute)
    pynvml.nvmlGpuInstanceDestroy(first)
    second = make(gpu, 19, 0, 1)
    _, again = fill(second, 0)
    assert pynvml.nvmlGpuInstanceGetInfo(second).id == 7
    assert pynvml.nvmlDeviceGetUUID(again) != uuid
    for call in (
        lambda: pynvml.nvmlGpuInstanceGetInfo(first),
        lambda: pynvml.nvmlGpuInstanceDestroy(first),
        lambda: pynvml.nvmlComputeInstanceDestroy(compute),
        lambda: pynvml.nvmlDeviceGetMemoryInfo(device),
        lambda: pynvml.nvmlDeviceGetHandleByUUID(uuid),
    ):
        with refused(pynvml.NVML_ERROR_NOT_FOUND):
            call()


def test_instances_without_compute_instances(new_node: NewNode) -> None:
    """They have no MIG device; only the list for their profile and their id find them."""
    _, (gpu,) = node(new_node, "h100")
    made = make(gpu, 14, 2, 2)
    assert [pynvml.nvmlGpuInstanceGetInfo(one).placement.start for one in listed(gpu, 14)] == [2]
    assert listed(gpu, 19) == []
    with refused(pynvml.NVML_ERROR_NOT_FOUND):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0)
    with refused(pynvml.NVML_ERROR_NOT_FOUND):
        pynvml.nvmlGpuInstanceGetComputeInstanceById(made, 0)
    info = pynvml.nvmlGpuInstanceGetInfo(pynvml.nvmlDeviceGetGpuInstanceById(gpu, 3))
    assert (info.id, info.profileId, info.placement.size) == (3, 14, 2)
    with refused(pynvml.NVML_ERROR_NOT_FOUND):
        pynvml.nvmlDeviceGetGpuInstanceById(gpu, 9)


def test_a_gpu_instance_goes_after_its_compute_instances(new_node: NewNode) -> None:
    _, (gpu,) = node(new_node, "h100")
    instance = make(gpu, 9, 0, 4)
    small, _ = fill(instance, 0)
    rest, _ = fill(instance, 1)
    assert pynvml.nvmlComputeInstanceGetInfo(rest).placement.start == 1
    with refused(pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES):
        fill(instance, 0)
    assert pynvml.nvmlGpuInstanceGetComputeInstanceRemainingCapacity(instance, 0) == 0
    for compute in (small, rest):
        with refused(pynvml.NVML_ERROR_IN_USE):
            pynvml.nvmlGpuInstanceDestroy(instance)
        pynvml.nvmlComputeInstanceDestroy(compute)
    pynvml.nvmlGpuInstanceDestroy(instance)


def test_the_traps_among_compute_profiles(new_node: NewNode) -> None:
    """A 7g lists two profiles with seven slices, and making one of them fails; others are not offered at all."""
    _, (gpu,) = node(new_node, "h100")
    whole = make(gpu, 0, 0, 8)
    offered: dict[int, int] = {}
    for number in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
        try:
            info = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(whole, number, SHARED)
        except pynvml.NVMLError_NotSupported:
            continue
        assert pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(whole, number, SHARED, version=1).id == info.id
        offered[number] = info.sliceCount
    assert offered == {0: 1, 1: 2, 2: 3, 3: 4, 4: 7, 7: 1, 8: 7}
    with refused(pynvml.NVML_ERROR_NOT_SUPPORTED):
        fill(whole, pynvml.NVML_COMPUTE_INSTANCE_PROFILE_7_SLICE_NVL)
    fill(whole, pynvml.NVML_COMPUTE_INSTANCE_PROFILE_7_SLICE)
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(whole, 9, SHARED)


def test_a_slice_in_use_is_not_destroyed(new_node: NewNode) -> None:
    """Nor is one made while a process has the bare GPU; a sibling's processes are no hindrance."""
    gpus, (gpu,) = node(new_node, "h100")
    instance = make(gpu, 19, 0, 1)
    compute, device = fill(instance, 0)
    gpus.hold(0, os.getpid(), gi=7, memory_mib=300)
    assert [(one.pid, one.usedGpuMemory >> 20) for one in pynvml.nvmlDeviceGetComputeRunningProcesses(device)] == [
        (os.getpid(), 300)
    ]
    assert [(one.gpuInstanceId, one.computeInstanceId) for one in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)] == [
        (7, 0)
    ]
    assert pynvml.nvmlDeviceGetMemoryInfo(device).used == 300 << 20
    with refused(pynvml.NVML_ERROR_IN_USE):
        pynvml.nvmlComputeInstanceDestroy(compute)
    make(gpu, 19, 1, 1)
    gpus.let_go(os.getpid())
    pynvml.nvmlComputeInstanceDestroy(compute)
    gpus.hold(0, os.getpid())
    with refused(pynvml.NVML_ERROR_IN_USE):
        make(gpu, 19, 2, 1)


def test_mode_of_hopper_changes_when_idle_and_is_forgotten(new_node: NewNode) -> None:
    """The call succeeds whatever happens: the activation status says whether the mode changed."""
    gpus, (gpu,) = node(new_node, "h100", mig=False)
    with refused(pynvml.NVML_ERROR_NOT_SUPPORTED):
        make(gpu, 19, 0, 1)
    gpus.hold(0, os.getpid())
    assert pynvml.nvmlDeviceSetMigMode(gpu, 1) == pynvml.NVML_ERROR_IN_USE
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [0, 1]
    gpus.let_go(os.getpid())
    assert pynvml.nvmlDeviceSetMigMode(gpu, 1) == pynvml.NVML_SUCCESS
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    make(gpu, 19, 0, 1)
    assert pynvml.nvmlDeviceSetMigMode(gpu, 0) == pynvml.NVML_ERROR_IN_USE
    gpus.reset(0)
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [0, 0]
    assert gpus.slices() == []


def test_mode_of_ampere_changes_with_a_reset(new_node: NewNode) -> None:
    """And is kept over it; what it can be cut into is told in MIG mode only."""
    gpus, (gpu,) = node(new_node, "a100", mig=False)
    with refused(pynvml.NVML_ERROR_NOT_SUPPORTED):
        pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 0)
    assert pynvml.nvmlDeviceSetMigMode(gpu, 1) == pynvml.NVML_ERROR_RESET_REQUIRED
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [0, 1]
    gpus.reset()
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    gpus.reset()
    assert pynvml.nvmlDeviceGetMigMode(gpu) == [1, 1]
    assert pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 0).id == 19


def test_cards_without_mig(new_node: NewNode) -> None:
    _, (gpu,) = node(new_node, "l40s")
    for call in (
        lambda: pynvml.nvmlDeviceGetMigMode(gpu),
        lambda: pynvml.nvmlDeviceSetMigMode(gpu, 1),
        lambda: pynvml.nvmlDeviceGetGpuInstanceProfileInfo(gpu, 0),
        lambda: pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0),
    ):
        with refused(pynvml.NVML_ERROR_NOT_SUPPORTED):
            call()


def test_a_call_of_another_version_is_refused(new_node: NewNode) -> None:
    _, (gpu,) = node(new_node, "h100")
    info = pynvml.c_nvmlGpuInstanceProfileInfo_v2_t()
    info.version = 0x03000098
    ask = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetGpuInstanceProfileInfoV")
    assert ask(gpu, 0, ctypes.byref(info)) == pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH


@pytest.mark.parametrize("sliced", [False, True])
def test_gpm_tells_what_happened_between_two_samples(new_node: NewNode, sliced: bool) -> None:
    """The mean SM use of a whole GPU or of a slice; a cut GPU's is that of its slices by their SMs."""
    gpus, (gpu,) = node(new_node, "h100", mig=sliced)
    if sliced:
        fill(make(gpu, 9, 0, 4), 2)
    assert pynvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice == 1
    gi = 1 if sliced else None

    def sample(whole: bool) -> Any:
        taken = pynvml.nvmlGpmSampleAlloc()
        return pynvml.nvmlGpmSampleGet(gpu, taken) if whole else pynvml.nvmlGpmMigSampleGet(gpu, gi, taken)

    gpus.set_utilisation(60, 0, gi=gi)
    before = {whole: sample(whole) for whole in ((True, False) if sliced else (True,))}
    began = time.monotonic()
    time.sleep(0.2)
    gpus.set_utilisation(20, 0, gi=gi)
    changed = time.monotonic()
    time.sleep(0.2)
    for whole, first in before.items():
        wanted = pynvml.c_nvmlGpmMetricsGet_t()
        wanted.version, wanted.numMetrics, wanted.sample1, wanted.sample2 = 1, 2, first, sample(whole)
        wanted.metrics[0].metricId, wanted.metrics[1].metricId = pynvml.NVML_GPM_METRIC_SM_UTIL, 60
        pynvml.nvmlGpmMetricsGet(wanted)
        ended = time.monotonic()  # as long as it took: 40 where both spans were alike
        mean = (60 * (changed - began) + 20 * (ended - changed)) / (ended - began)
        expected = mean * 60 / 132 if whole and sliced else mean
        assert wanted.metrics[0].value == pytest.approx(expected, abs=4)
        assert wanted.metrics[1].nvmlReturn == pynvml.NVML_ERROR_NOT_SUPPORTED


def test_no_gpm_before_hopper(new_node: NewNode) -> None:
    _, (gpu,) = node(new_node, "a100")
    assert pynvml.nvmlGpmQueryDeviceSupport(gpu).isSupportedDevice == 0
    with refused(pynvml.NVML_ERROR_NOT_SUPPORTED):
        pynvml.nvmlGpmSampleGet(gpu, pynvml.nvmlGpmSampleAlloc())
