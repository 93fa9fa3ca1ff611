"""A simulated NVIDIA driver for machines without GPUs: a libnvidia-ml.so.1 that unmodified NVML clients load.

`SimulatedGpus` describes a node's GPUs in a file and changes what they do; `build` compiles the library. A process
finds both by its environment: LD_LIBRARY_PATH, where pynvml looks for the library, and SLURMEXT_SIMULATED_GPUS.
"""

from slurmext.testing.nvml.build import build
from slurmext.testing.nvml.gpus import DRIVER_NOT_LOADED, ENVIRONMENT, GPU_IS_LOST, SimulatedGpus

__all__ = ["DRIVER_NOT_LOADED", "ENVIRONMENT", "GPU_IS_LOST", "SimulatedGpus", "build"]
