"""The GPU driver port over NVML: what it reads, and that it never guesses."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from slurmext.adapters.nvml import NvmlDriver
from slurmext.model.gpu import GpuSample
from slurmext.testing.nvml import DRIVER_NOT_LOADED, ENVIRONMENT, GPU_IS_LOST, SimulatedGpus

NewNode = Callable[..., SimulatedGpus]


def sampled(driver: NvmlDriver) -> dict[int, GpuSample]:
    return {sample.minor: sample for sample in driver.sample()}


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
    assert sampled(driver)[0].peak_percent == 0
    gpus.set_utilisation(60)
    time.sleep(0.3)
    gpus.set_utilisation(0)
    time.sleep(0.5)
    sample = sampled(driver)[0]
    assert sample.peak_percent == 60
    assert 0 < sample.mean_percent < 60
    time.sleep(0.2)
    assert sampled(driver)[0].peak_percent == 0


def test_the_first_look_does_not_see_the_job_before(new_node: NewNode) -> None:
    """What the driver still keeps of the time before is somebody else's."""
    gpus = new_node("h100")
    gpus.set_utilisation(100)
    time.sleep(0.3)
    gpus.set_utilisation(0)
    assert sampled(NvmlDriver())[0].peak_percent == 0


def test_a_gpu_that_fails_is_unknown_and_the_others_are_known(new_node: NewNode) -> None:
    """A lost GPU is left out; when it comes back it is read again."""
    gpus = new_node("h100", "h100")
    gpus.set_memory(500, 1)
    driver = NvmlDriver()
    gpus.set_fault(GPU_IS_LOST, 0)
    assert sampled(driver).keys() == {1}
    assert sampled(driver)[1].memory_mib == 500
    assert [device.minor for device in driver.inventory()] == [1]
    gpus.set_fault(0, 0)
    assert sampled(driver).keys() == {0, 1}


@pytest.mark.parametrize("code", [DRIVER_NOT_LOADED, 999, 18])
def test_a_driver_that_fails_makes_everything_unknown_until_it_works(new_node: NewNode, code: int) -> None:
    """At first and in the middle; nothing is raised, and afterwards it is opened anew."""
    gpus = new_node("h100")
    driver = NvmlDriver()
    gpus.set_fault(code)
    assert sampled(driver) == {}
    assert driver.inventory() == ()
    gpus.set_fault(0)
    assert sampled(driver).keys() == {0}
    gpus.set_fault(code)
    assert sampled(driver) == {}
    gpus.set_fault(0)
    assert sampled(driver).keys() == {0}


def test_a_driver_that_was_replaced_is_opened_anew(
    new_node: NewNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a new driver was loaded under the agent, the old library's handles are of no use."""
    gpus = new_node("h100")
    driver = NvmlDriver()
    sampled(driver)
    gpus.set_fault(999)
    assert sampled(driver) == {}
    monkeypatch.setenv(ENVIRONMENT, str(SimulatedGpus.create(tmp_path / "new", ("h100", "h100")).path))
    assert sampled(driver).keys() == {0, 1}


def test_samples_name_the_processes_on_each_gpu(new_node: NewNode) -> None:
    """So that a job's work is found where it happens."""
    new_node("h100", "h100", cluster="sim", node="n7")
    env = {"SLURM_CLUSTER_NAME": "sim", "SLURMD_NODENAME": "n7", "SLURM_JOB_GPUS": "1"}
    with subprocess.Popen(["/bin/sleep", "60"], env=env) as sleeper:
        time.sleep(0.3)
        samples = sampled(NvmlDriver())
        sleeper.kill()
    assert (samples[0].pids, samples[1].pids) == ((), (sleeper.pid,))
    assert [(sample.minor, sample.index) for sample in samples.values()] == [(0, 0), (1, 1)]


def test_a_released_driver_is_closed(new_node: NewNode) -> None:
    """While no job has a GPU nothing of ours keeps it from being reset; the next look opens it again."""
    new_node("h100")
    driver = NvmlDriver()
    sampled(driver)
    driver.release()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    assert sampled(driver).keys() == {0}
