"""MIG mode, versions of calls and GPM through unmodified pynvml."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import pynvml
import pytest

from .mig_calls import NewNode, fill, make, node, refused


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
