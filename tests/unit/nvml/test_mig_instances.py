"""GPU and compute instances through unmodified pynvml: made, listed, in use, gone."""

from __future__ import annotations

import os

import pynvml
import pytest

from .mig_calls import SHARED, Handle, NewNode, destroy, fill, listed, make, node, refused


@pytest.fixture
def gpu(new_node: NewNode) -> Handle:
    """The one GPU of a node that may be cut."""
    return node(new_node, "h100")[1][0]


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


def test_mig_devices_have_holes(gpu: Handle) -> None:
    """The index of a destroyed one stays empty until the next is made."""
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 7
    parts = [(instance := make(gpu, 19, start, 1), *fill(instance, 0)) for start in (0, 1, 2)]
    destroy(parts[1][0], parts[1][1])
    with refused(pynvml.NVML_ERROR_NOT_FOUND):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 1)
    assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 2)) == pynvml.nvmlDeviceGetUUID(
        parts[2][2]
    )
    fill(make(gpu, 19, 5, 1), 0)
    pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 1)
    with refused(pynvml.NVML_ERROR_INVALID_ARGUMENT):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 7)


def test_handles_are_of_one_generation(gpu: Handle) -> None:
    """An instance made anew has the ids of the one before, another UUID, and old handles are not found."""
    first = make(gpu, 19, 0, 1)
    compute, device = fill(first, 0)
    uuid = pynvml.nvmlDeviceGetUUID(device)
    destroy(first, compute)
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


def test_instances_without_compute_instances(gpu: Handle) -> None:
    """They have no MIG device; only the list for their profile and their id find them."""
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


def test_a_gpu_instance_goes_after_its_compute_instances(gpu: Handle) -> None:
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


def test_the_traps_among_compute_profiles(gpu: Handle) -> None:
    """A 7g lists two profiles with seven slices, and making one of them fails; others are not offered at all."""
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
