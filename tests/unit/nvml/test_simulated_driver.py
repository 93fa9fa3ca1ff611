"""The simulated driver through unmodified pynvml: what it says is what NVML says of such GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from slurmext.testing.nvml import DRIVER_NOT_LOADED, GPU_IS_LOST, SimulatedGpus

NewNode = Callable[..., SimulatedGpus]


def test_a_client_in_another_process_finds_it_by_its_environment(library: Path, tmp_path: Path) -> None:
    """LD_LIBRARY_PATH and the state file's path are all that pynvml needs."""
    gpus = SimulatedGpus.create(tmp_path / "n1", ("h100", "h100"))
    code = "import pynvml; pynvml.nvmlInit(); print(pynvml.__file__, pynvml.nvmlDeviceGetCount())"
    env = {**os.environ, **gpus.environment(library.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [pynvml.__file__, "2"]


def test_gpus_are_of_the_cards_that_slurm_names(new_node: NewNode) -> None:
    """Name, memory, PCI id, minor number and MIG ability are those of the card; a type nobody knows is some GPU."""
    gpus = new_node("h100", "t4", "mystery")
    pynvml.nvmlInit()
    found = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    names = [pynvml.nvmlDeviceGetName(handle) for handle in found]
    assert names == ["NVIDIA H100 80GB HBM3", "Tesla T4", "NVIDIA simulated GPU"]
    assert [pynvml.nvmlDeviceGetMinorNumber(handle) for handle in found] == [0, 1, 2]
    assert pynvml.nvmlDeviceGetMemoryInfo(found[0]).total == 81_559 << 20
    assert pynvml.nvmlDeviceGetMemoryInfo(found[0], version=pynvml.nvmlMemory_v2).total == 81_559 << 20
    assert pynvml.nvmlDeviceGetPciInfo(found[0]).pciDeviceId == 0x233010DE
    assert pynvml.nvmlDeviceGetPciInfo(found[0]).busId == "00000000:10:00.0"
    assert pynvml.nvmlDeviceGetMigMode(found[0]) == [0, 0]
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetMigMode(found[1])
    assert [pynvml.nvmlDeviceGetUUID(handle) for handle in found] == [gpus.uuid(index) for index in range(3)]
    assert pynvml.nvmlSystemGetDriverVersion() == "550.90.07"


def test_handles_are_found_by_every_name_of_a_gpu(new_node: NewNode) -> None:
    """By UUID and PCI bus id (either form) it is the GPU that has them; others are not found."""
    gpus = new_node("h100", "h100", "h100")
    pynvml.nvmlInit()
    by_uuid = pynvml.nvmlDeviceGetHandleByUUID(gpus.uuid(2))
    by_bus = pynvml.nvmlDeviceGetHandleByPciBusId("0000:11:00.0")
    assert (pynvml.nvmlDeviceGetIndex(by_uuid), pynvml.nvmlDeviceGetIndex(by_bus)) == (2, 1)
    for look, name in ((pynvml.nvmlDeviceGetHandleByUUID, "GPU-0"), (pynvml.nvmlDeviceGetHandleByPciBusId, "0:0:0.0")):
        with pytest.raises(pynvml.NVMLError_NotFound):
            look(name)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetHandleByIndex(3)


def test_utilisation_and_memory_are_what_was_set(new_node: NewNode) -> None:
    """A change is seen at once by whoever has the driver open."""
    gpus = new_node("h100", "h100")
    pynvml.nvmlInit()
    first, second = (pynvml.nvmlDeviceGetHandleByIndex(index) for index in (0, 1))
    gpus.set_utilisation(37, 1)
    gpus.set_memory(1234, 1)
    assert pynvml.nvmlDeviceGetUtilizationRates(first).gpu == 0
    assert pynvml.nvmlDeviceGetUtilizationRates(second).gpu == 37
    assert pynvml.nvmlDeviceGetMemoryInfo(second).used == 1234 << 20


def test_samples_tell_what_happened_between_two_looks(new_node: NewNode) -> None:
    """Work that began and ended since the last look is in the samples, and is not told twice."""
    gpus = new_node("h100")
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    kind = pynvml.NVML_GPU_UTILIZATION_SAMPLES
    _, before = pynvml.nvmlDeviceGetSamples(handle, kind, 0)
    last_us = before[-1].timeStamp
    gpus.set_utilisation(80)
    time.sleep(0.4)
    gpus.set_utilisation(0)
    time.sleep(0.4)
    _, samples = pynvml.nvmlDeviceGetSamples(handle, kind, last_us)
    percents = [sample.sampleValue.uiVal for sample in samples]
    assert {0, 80} == set(percents)
    assert percents[-1] == 0
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetSamples(handle, kind, samples[-1].timeStamp)


def test_a_gpu_works_while_a_job_of_its_node_has_it(new_node: NewNode) -> None:
    """Nothing set: the processes of jobs on this node and cluster make the GPUs they were given work."""
    new_node("h100", "h100", cluster="sim", node="n7")
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in (0, 1)]
    job = {"SLURM_CLUSTER_NAME": "sim", "SLURMD_NODENAME": "n7", "SLURM_JOB_GPUS": "0,1", "SLURM_STEP_GPUS": "1"}
    others = [job | {"SLURMD_NODENAME": "n8"}, job | {"SLURM_CLUSTER_NAME": "other"}]
    sleepers = [subprocess.Popen(["/bin/sleep", "60"], env=env) for env in (job, *others)]
    try:
        time.sleep(0.3)
        assert [pynvml.nvmlDeviceGetUtilizationRates(handle).gpu for handle in handles] == [0, 100]
        assert [one.pid for one in pynvml.nvmlDeviceGetComputeRunningProcesses(handles[1])] == [sleepers[0].pid]
        assert pynvml.nvmlDeviceGetComputeRunningProcesses(handles[0]) == []
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
    time.sleep(0.3)
    assert pynvml.nvmlDeviceGetUtilizationRates(handles[1]).gpu == 0


def test_faults_are_nvmls(new_node: NewNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost GPU fails alone, a driver that is not loaded fails all; both are over when mended."""
    gpus = new_node("h100", "h100")
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    gpus.set_fault(GPU_IS_LOST, 0)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetUtilizationRates(handle)
    assert pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(1))
    gpus.set_fault(DRIVER_NOT_LOADED)
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded, match="Driver Not Loaded"):
        pynvml.nvmlDeviceGetCount()
    pynvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
        pynvml.nvmlInit()
    gpus.set_fault(0)
    gpus.set_fault(0, 0)
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 2
    pynvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    monkeypatch.delenv("SLURMEXT_SIMULATED_GPUS")
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
        pynvml.nvmlInit()
