"""A simulated NVIDIA driver for machines without GPUs: a libnvidia-ml.so.1 that unmodified NVML clients load.

`SimulatedGpus` describes a node's GPUs in a file and changes what they do; `build` compiles the library. A process
finds both by its environment: LD_LIBRARY_PATH, where pynvml looks for the library, and SLURMEXT_SIMULATED_GPUS. The
driver's capabilities tree and device nodes are under SLURMEXT_DRIVER_ROOT.

In C: library (start, lock), faults, handles, processes (who has a GPU), samples (utilisation, GPM), devices, geometry
(profiles), mig (mode, GPU instances), compute (compute instances), migdevices, caps (capabilities tree); state.h is
what they share.
"""

from slurmext.testing.nvml.build import build
from slurmext.testing.nvml.cards import CARDS, OTHER, card_of
from slurmext.testing.nvml.gpus import (
    ARGUMENT_VERSION_MISMATCH,
    DIES_AFTER,
    DIES_BEFORE,
    DRIVER_NOT_LOADED,
    ENVIRONMENT,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    IN_USE,
    INSUFFICIENT_RESOURCES,
    NO_PERMISSION,
    Call,
    SimulatedGpus,
    SimulatedSlice,
)
from slurmext.testing.nvml.tree import DRIVER_ROOT

__all__ = [
    "ARGUMENT_VERSION_MISMATCH",
    "CARDS",
    "DIES_AFTER",
    "DIES_BEFORE",
    "DRIVER_NOT_LOADED",
    "DRIVER_ROOT",
    "ENVIRONMENT",
    "FUNCTION_NOT_FOUND",
    "GPU_IS_LOST",
    "INSUFFICIENT_RESOURCES",
    "IN_USE",
    "NO_PERMISSION",
    "OTHER",
    "Call",
    "SimulatedGpus",
    "SimulatedSlice",
    "build",
    "card_of",
]
