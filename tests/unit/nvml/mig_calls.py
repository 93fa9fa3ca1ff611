"""Calls about MIG through unmodified pynvml, and how they are refused."""

from __future__ import annotations

import ctypes
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


def destroy(instance: Handle, compute: Handle) -> None:
    """Both, in the order that the driver wants."""
    pynvml.nvmlComputeInstanceDestroy(compute)
    pynvml.nvmlGpuInstanceDestroy(instance)


def listed(gpu: Handle, profile: int) -> list[Handle]:
    found, count = (pynvml.c_nvmlGpuInstance_t * 16)(), ctypes.c_uint(16)
    pynvml.nvmlDeviceGetGpuInstances(gpu, profile, found, ctypes.byref(count))
    return [found[at] for at in range(count.value)]
