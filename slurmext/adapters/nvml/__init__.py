"""GPUs by NVML, NVIDIA's management library, through pynvml."""

from slurmext.adapters.nvml.driver import NvmlDriver

__all__ = ["NvmlDriver"]
