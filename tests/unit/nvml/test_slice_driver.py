"""The slice driver port over NVML: what it finds, makes, destroys and refuses to touch."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from slurmext.adapters.nvml import NvmlSliceDriver
from slurmext.errors import GpuDriverError, GpuInUse, GpuNeedsReset, GpuOtherInstance, GpuPlaceTaken
from slurmext.model.mig import GpuProcess, MigInstance
from slurmext.model.slicing import Geometry
from slurmext.testing.nvml import (
    ARGUMENT_VERSION_MISMATCH,
    DRIVER_NOT_LOADED,
    ENVIRONMENT,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    IN_USE,
    SimulatedGpus,
)
from slurmext.testing.nvml.cards import CARDS

NewNode = Callable[..., SimulatedGpus]
SliceNode = Callable[..., tuple[SimulatedGpus, NvmlSliceDriver]]


@pytest.fixture
def slice_node(new_node: NewNode) -> SliceNode:
    """A node whose GPUs are in MIG mode, and a driver that gives up soon."""

    def make(*cards: str, mig: bool = True) -> tuple[SimulatedGpus, NvmlSliceDriver]:
        gpus = new_node(*cards)
        if mig:
            gpus.set_mig(True)
        return gpus, NvmlSliceDriver(patience_s=0.3)

    return make


def geometry_of(driver: NvmlSliceDriver, index: int = 0) -> Geometry:
    geometry = driver.cards()[index].geometry
    assert geometry is not None
    return geometry


@pytest.mark.parametrize("old", [0, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH])
@pytest.mark.parametrize("card", ["a30", "a100_40gb", "a100", "h100", "h200", "b200", "rtx_pro_6000"])
def test_geometry_is_what_the_driver_tells(slice_node: SliceNode, card: str, old: int) -> None:
    """Profiles with ids, sizes and places, under the same names where an older driver does not tell names."""
    gpus, driver = slice_node(card)
    if old:
        gpus.on_call("nvmlDeviceGetGpuInstanceProfileInfoV", result=old)
    found = {one.name: one for one in geometry_of(driver).profiles}
    assert found.keys() == {row.name for row in CARDS[card].profiles}
    for row in CARDS[card].profiles:
        profile = found[row.name]
        assert (profile.profile_id, profile.starts, profile.memory_units) == (row.id, row.starts, row.units)
        assert (profile.compute_slices, profile.memory_mib, profile.sm) == (row.slices, row.memory_mib, row.sm)
        assert (profile.most, profile.automatic) == (row.most, row.name.endswith("gb"))
    geometry = geometry_of(driver)
    assert geometry.memory_units == CARDS[card].memory_units
    assert geometry.compute_slices == CARDS[card].compute_slices


def test_cards_of_a_mixed_node(slice_node: SliceNode) -> None:
    """Cards that cannot be cut, or do not tell, have no geometry; one that fails is left out."""
    gpus, driver = slice_node("h100", "a100", "t4", "h100", mig=False)
    gpus.set_fault(GPU_IS_LOST, 3)
    hopper, ampere, turing = driver.cards()
    assert (hopper.mig, hopper.sm, hopper.geometry is None) == (False, 132, False)
    assert (ampere.mig, ampere.sm, ampere.geometry) == (False, 108, None)
    assert (turing.mig, turing.mig_pending, turing.geometry) == (None, None, None)
    gpus.set_fault(0, 3)
    assert len(driver.cards()) == 4


def test_makes_an_instance_where_it_was_told(slice_node: SliceNode) -> None:
    """With the compute instance that fills it; its UUID is that of the MIG device."""
    gpus, driver = slice_node("h100")
    made = driver.create(gpus.uuid(0), "3g.40gb", 4)
    assert (made.profile_id, made.start, made.gi, made.ci) == (9, 4, 1, 0)
    (there,) = gpus.slices()
    assert (there.profile, there.start, there.computes) == ("3g.40gb", 4, ((0, made.uuid),))
    assert driver.instances(gpus.uuid(0)) == (made,)
    names = [call.name for call in gpus.calls()]
    assert not any("ByIndex" in name and "Mig" in name for name in names)


@pytest.mark.parametrize("card", ["a30", "a100", "h200", "rtx_pro_6000"])
def test_makes_every_profile_at_every_place(slice_node: SliceNode, card: str) -> None:
    """Also the whole card, where the driver lists a compute profile that cannot be made."""
    gpus, driver = slice_node(card)
    for profile in geometry_of(driver).profiles:
        for start in profile.starts:
            made = driver.create(gpus.uuid(0), profile.name, start)
            assert made.uuid
            driver.destroy(made)
    assert gpus.slices() == []


def test_refuses_places_that_are_taken_or_not_legal(slice_node: SliceNode) -> None:
    gpus, driver = slice_node("h100")
    driver.create(gpus.uuid(0), "1g.10gb", 5)
    for profile, start, said in (("3g.40gb", 4, "Insufficient"), ("1g.10gb", 7, "0, 1, 2"), ("9g.1gb", 0, "7g.80gb")):
        with pytest.raises(GpuPlaceTaken, match=said):
            driver.create(gpus.uuid(0), profile, start)
    assert len(gpus.slices()) == 1


def test_destroys_what_it_was_told_and_nothing_else(slice_node: SliceNode) -> None:
    """An instance that took the ids of ours has another UUID: it stays. What is gone is no error."""
    gpus, driver = slice_node("h100")
    first = driver.create(gpus.uuid(0), "1g.10gb", 0)
    driver.destroy(first)
    driver.destroy(first)
    second = driver.create(gpus.uuid(0), "1g.10gb", 0)
    assert (second.gi, second.ci, second.start) == (first.gi, first.ci, first.start)
    assert second.uuid != first.uuid
    with pytest.raises(GpuOtherInstance):
        driver.destroy(first)
    driver.destroy(second)
    third = driver.create(gpus.uuid(0), "1g.10gb", 3)
    assert third.gi == first.gi
    with pytest.raises(GpuOtherInstance):
        driver.destroy(first)
    assert driver.instances(gpus.uuid(0)) == (third,)


def test_siblings_stay_while_one_is_destroyed(slice_node: SliceNode) -> None:
    gpus, driver = slice_node("h100")
    made = [driver.create(gpus.uuid(0), "1g.10gb", start) for start in range(7)]
    gpus.hold(0, os.getpid(), gi=made[3].gi)
    for one in made[:3] + made[4:]:
        driver.destroy(one)
    assert driver.instances(gpus.uuid(0)) == (made[3],)


def test_partial_instances_are_listed_and_destroyed(slice_node: SliceNode) -> None:
    """A GPU instance without a compute instance, with a part of one, or with two has no UUID to run on."""
    gpus, driver = slice_node("h100")
    driver.cards()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    bare = pynvml.nvmlDeviceCreateGpuInstance(gpu, 19)
    partial = pynvml.nvmlDeviceCreateGpuInstance(gpu, 14)
    pynvml.nvmlGpuInstanceCreateComputeInstance(partial, 0)
    ids = {pynvml.nvmlGpuInstanceGetInfo(one).id for one in (bare, partial)}
    found = driver.instances(gpus.uuid(0))
    assert {one.gi for one in found} == ids
    assert {(one.ci, one.uuid) for one in found} == {(None, "")}
    small, large = sorted(found, key=lambda one: one.profile)
    driver.destroy(small)
    with pytest.raises(GpuOtherInstance):
        driver.destroy(large)


def test_a_partial_instance_that_is_another_one_now_stays(slice_node: SliceNode) -> None:
    """It has no UUID: its profile and place tell."""
    gpus, driver = slice_node("h100")
    driver.cards()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)

    def make(start: int) -> MigInstance:
        pynvml.nvmlDeviceCreateGpuInstanceWithPlacement(
            gpu, 19, ctypes.byref(pynvml.c_nvmlGpuInstancePlacement_t(start, 1))
        )
        return driver.instances(gpus.uuid(0))[0]

    first = make(0)
    driver.destroy(first)
    second = make(3)
    assert second.gi == first.gi
    with pytest.raises(GpuOtherInstance):
        driver.destroy(first)
    driver.destroy(second)


def test_a_failure_half_way_leaves_nothing(slice_node: SliceNode) -> None:
    """The GPU instance goes again when its compute instance cannot be made."""
    gpus, driver = slice_node("h100")
    gpus.on_call("nvmlGpuInstanceCreateComputeInstance", result=999, times=1)
    with pytest.raises(GpuDriverError):
        driver.create(gpus.uuid(0), "1g.10gb", 0)
    assert gpus.slices() == []
    assert driver.create(gpus.uuid(0), "1g.10gb", 0).uuid


def test_in_use_is_tried_again_for_a_while(slice_node: SliceNode) -> None:
    """The driver may call an instance in use just after its compute instance went, or just after its process."""
    gpus, driver = slice_node("h100")
    made = driver.create(gpus.uuid(0), "1g.10gb", 0)
    gpus.on_call("nvmlGpuInstanceDestroy", result=IN_USE, times=2)
    driver.destroy(made)
    assert gpus.slices() == []
    made = driver.create(gpus.uuid(0), "1g.10gb", 0)
    gpus.hold(0, os.getpid(), gi=made.gi)
    began = time.monotonic()
    with pytest.raises(GpuInUse):
        driver.destroy(made)
    assert 0.2 < time.monotonic() - began < 10
    gpus.let_go(os.getpid())
    driver.destroy(made)


def test_a_busy_bare_gpu_takes_no_instance(slice_node: SliceNode) -> None:
    gpus, driver = slice_node("h100")
    gpus.hold(0, os.getpid())
    with pytest.raises(GpuInUse):
        driver.create(gpus.uuid(0), "1g.10gb", 0)


def test_mode_changes_only_where_it_harms_nobody(slice_node: SliceNode) -> None:
    """Not with processes or instances on the GPU, never with a reset; a refusal leaves no mode pending."""
    gpus, driver = slice_node("h100", "a100", "t4", mig=False)
    hopper, ampere, turing = (gpus.uuid(index) for index in range(3))
    gpus.hold(0, os.getpid())
    with pytest.raises(GpuInUse, match=str(os.getpid())):
        driver.set_mig(hopper, on=True)
    gpus.let_go(os.getpid())
    driver.set_mig(hopper, on=True)
    driver.set_mig(hopper, on=True)
    made = driver.create(hopper, "1g.10gb", 0)
    with pytest.raises(GpuInUse, match="instances"):
        driver.set_mig(hopper, on=False)
    driver.destroy(made)
    driver.set_mig(hopper, on=False)
    with pytest.raises(GpuNeedsReset, match="nvidia-smi"):
        driver.set_mig(ampere, on=True)
    with pytest.raises(GpuDriverError, match="no MIG mode"):
        driver.set_mig(turing, on=True)
    assert [(card.mig, card.mig_pending) for card in driver.cards()] == [(False, False), (False, False), (None, None)]


def test_a_mode_that_stays_pending_is_taken_back(slice_node: SliceNode) -> None:
    """The driver says it is in use (somebody we do not see): the GPU would change at some later reset otherwise."""
    gpus, driver = slice_node("h100", mig=False)
    gpus.hold(0, os.getpid())
    gpus.on_call("nvmlDeviceGetComputeRunningProcesses*", result=3)
    with pytest.raises(GpuInUse):
        driver.set_mig(gpus.uuid(0), on=True)
    assert [(card.mig, card.mig_pending) for card in driver.cards()] == [(False, False)]


def test_processes_and_use_of_a_slice(slice_node: SliceNode) -> None:
    gpus, driver = slice_node("h100")
    gpu = gpus.uuid(0)
    ours, theirs = driver.create(gpu, "1g.10gb", 0), driver.create(gpu, "3g.40gb", 4)
    gpus.hold(0, os.getpid(), gi=ours.gi, memory_mib=700, percent=30)
    assert driver.processes(gpu, ours) == (GpuProcess(pid=os.getpid(), memory_mib=700),)
    assert driver.processes(gpu, theirs) == ()
    assert len(driver.processes(gpu)) == 1
    first = driver.use(gpu, ours)
    assert (first.memory_mib, first.sm_pct) == (700, None)
    time.sleep(0.15)
    assert driver.use(gpu, ours).sm_pct == pytest.approx(30, abs=1)
    assert driver.use(gpu, ours).sm_pct is None  # too soon after that
    partial = MigInstance(gpu=gpu, profile="1g.10gb", profile_id=19, start=0, gi=ours.gi)
    assert driver.processes(gpu, partial) == driver.processes(gpu, ours)


def test_no_sm_use_before_hopper(slice_node: SliceNode) -> None:
    gpus, driver = slice_node("a100")
    made = driver.create(gpus.uuid(0), "1g.10gb", 0)
    driver.use(gpus.uuid(0), made)
    time.sleep(0.15)
    assert driver.use(gpus.uuid(0), made).sm_pct is None


def test_a_driver_that_comes_back(slice_node: SliceNode) -> None:
    """Errors are ours, and after it was loaded anew it is opened anew."""
    gpus, driver = slice_node("h100")
    made = driver.create(gpus.uuid(0), "1g.10gb", 0)
    gpus.set_fault(DRIVER_NOT_LOADED)
    for call in (driver.cards, lambda: driver.instances(gpus.uuid(0)), lambda: driver.destroy(made)):
        with pytest.raises(GpuDriverError):
            call()
    gpus.set_fault(0)
    assert driver.instances(gpus.uuid(0)) == (made,)
    with pytest.raises(GpuDriverError, match="Not Found"):
        driver.instances("GPU-0")


def test_a_driver_that_was_replaced(slice_node: SliceNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a new driver was loaded under the agent nothing of the old one is used: neither library nor geometry."""
    gpus, driver = slice_node("h100")
    driver.cards()
    gpus.set_fault(DRIVER_NOT_LOADED)
    with pytest.raises(GpuDriverError):
        driver.cards()
    monkeypatch.setenv(ENVIRONMENT, str(SimulatedGpus.create(tmp_path / "new", ("h200",)).path))
    (card,) = driver.cards()
    assert card.geometry is not None
    assert card.geometry.profiles[0].name == "1g.18gb"


def test_calls_about_different_gpus_do_not_wait_for_each_other(slice_node: SliceNode) -> None:
    """One after the other they would take 1.2 s. A busy machine gets three tries."""
    gpus, driver = slice_node("h100", "h100", "h100", "h100")
    driver.cards()
    gpus.on_call("nvmlDeviceCreateGpuInstanceWithPlacement", delay_ms=300)
    took: list[float] = []
    while len(took) < 3 and min(took, default=9) >= 0.9:
        began = time.monotonic()
        threads = [
            threading.Thread(target=driver.create, args=(gpus.uuid(index), "1g.10gb", len(took))) for index in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took.append(time.monotonic() - began)
        assert len(gpus.slices()) == 4 * len(took)
    assert min(took) < 0.9, took


def test_a_released_driver_is_closed(slice_node: SliceNode) -> None:
    _, driver = slice_node("h100")
    driver.cards()
    driver.release()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    assert len(driver.cards()) == 1


def test_a_slice_is_made_and_destroyed_fast(slice_node: SliceNode) -> None:
    """It is in a job's prolog: with a driver that takes no time, the calls themselves are a few milliseconds."""
    gpus, driver = slice_node("h100")
    driver.create(gpus.uuid(0), "1g.10gb", 6)
    took: list[float] = []
    for start in range(6):
        began = time.perf_counter()
        driver.destroy(driver.create(gpus.uuid(0), "1g.10gb", start))
        took.append(time.perf_counter() - began)
    assert sorted(took)[3] < 0.1
