"""GPUs by NVML, NVIDIA's management library, through pynvml.

`driver` reads what GPUs do (GpuDriver); `mig` cuts them (SliceDriver) with `geometry`, `gpm` and `session`.
"""

from slurmext.adapters.nvml.driver import NvmlDriver
from slurmext.adapters.nvml.mig import NvmlSliceDriver

__all__ = ["NvmlDriver", "NvmlSliceDriver"]
