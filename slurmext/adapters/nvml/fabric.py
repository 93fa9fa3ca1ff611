"""The NVLink domain of a node, as NVML tells it: GPUs that reach those of other nodes over NVLink are in one fabric."""

from __future__ import annotations

import ctypes
import logging

from slurmext.adapters.nvml.session import Session
from slurmext.errors import GpuDriverError

log = logging.getLogger(__name__)


def fabric_domain() -> str:
    """UUID of the fabric and number of the clique that all GPUs of this node are in; empty when they are in none.

    A machine with NVLink inside only has a fabric without a UUID. Opens the driver and lets go of it.
    """
    session = Session()
    try:
        with session.open("reading the NVLink fabric") as nvml:
            found = set[str]()
            for index in range(nvml.nvmlDeviceGetCount()):
                info = nvml.c_nvmlGpuFabricInfo_t()
                nvml.nvmlDeviceGetGpuFabricInfo(nvml.nvmlDeviceGetHandleByIndex(index), ctypes.byref(info))
                uuid = bytes(info.clusterUuid)
                whole = info.state == nvml.NVML_GPU_FABRIC_STATE_COMPLETED and info.status == nvml.NVML_SUCCESS
                found.add(f"{uuid.hex()}.{info.cliqueId}" if whole and any(uuid) else "")
    except GpuDriverError as error:
        log.debug("%s", error)  # no GPUs, an older driver, or GPUs without NVLink between nodes
        return ""
    finally:
        session.release()
    return found.pop() if len(found) == 1 else ""
