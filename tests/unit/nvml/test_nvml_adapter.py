"""The GPU driver port over NVML: what it reads, and that it never guesses."""

from __future__ import annotations

import time
from collections.abc import Callable

import pynvml
import pytest

from slurmext.adapters.nvml import NvmlDriver
from slurmext.testing.nvml import DRIVER_NOT_LOADED, GPU_IS_LOST, SimulatedGpus

NewNode = Callable[..., SimulatedGpus]


def test_inventory_by_minor_number(new_node: NewNode) -> None:
    """Every GPU that answers, with what it is."""
    gpus = new_node("h100", "t4")
    first, second = NvmlDriver().inventory()
    assert (first.minor, first.name, first.memory_mib, first.mig) == (0, "NVIDIA H100 80GB HBM3", 81_559, False)
    assert (second.minor, second.uuid, second.mig) == (1, gpus.uuid(1), False)


def test_work_between_two_looks_is_seen(new_node: NewNode) -> None:
    """A GPU that worked for a moment since the last look worked, though it is idle now."""
    gpus = new_node("h100")
    driver = NvmlDriver()
    assert driver.sample([0])[0].peak_percent == 0
    gpus.set_utilisation(60)
    time.sleep(0.3)
    gpus.set_utilisation(0)
    time.sleep(0.5)
    sample = driver.sample([0])[0]
    assert sample.peak_percent == 60
    assert 0 < sample.mean_percent < 60
    time.sleep(0.2)
    assert driver.sample([0])[0].peak_percent == 0


def test_the_first_look_does_not_see_the_job_before(new_node: NewNode) -> None:
    """What the driver still keeps of the time before is somebody else's."""
    gpus = new_node("h100")
    gpus.set_utilisation(100)
    time.sleep(0.3)
    gpus.set_utilisation(0)
    assert NvmlDriver().sample([0])[0].peak_percent == 0


def test_a_gpu_that_fails_is_unknown_and_the_others_are_known(new_node: NewNode) -> None:
    """A lost GPU and one that does not exist are left out; a GPU that comes back is read again."""
    gpus = new_node("h100", "h100")
    gpus.set_memory(500, 1)
    driver = NvmlDriver()
    gpus.set_fault(GPU_IS_LOST, 0)
    assert driver.sample([0, 1, 9]).keys() == {1}
    assert driver.sample([1])[1].memory_mib == 500
    assert [device.minor for device in driver.inventory()] == [1]
    gpus.set_fault(0, 0)
    assert driver.sample([0, 1]).keys() == {0, 1}


@pytest.mark.parametrize("code", [DRIVER_NOT_LOADED, 999, 18])
def test_a_driver_that_fails_makes_everything_unknown_until_it_works(new_node: NewNode, code: int) -> None:
    """At first and in the middle; nothing is raised, and afterwards it is opened anew."""
    gpus = new_node("h100")
    driver = NvmlDriver()
    gpus.set_fault(code)
    assert driver.sample([0]) == {}
    assert driver.inventory() == ()
    gpus.set_fault(0)
    assert driver.sample([0]).keys() == {0}
    gpus.set_fault(code)
    assert driver.sample([0]) == {}
    gpus.set_fault(0)
    assert driver.sample([0]).keys() == {0}


def test_a_released_driver_is_closed(new_node: NewNode) -> None:
    """While no job has a GPU nothing of ours keeps it from being reset; the next look opens it again."""
    new_node("h100")
    driver = NvmlDriver()
    driver.sample([0])
    driver.release()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    assert driver.sample([0]).keys() == {0}
