"""A GpuDriver over pynvml. Every error makes what was asked about unknown; none is raised."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any

from slurmext.model.gpu import GpuDevice, GpuSample

log = logging.getLogger(__name__)

_MIB = 1 << 20
_Handle = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gpu:
    index: int
    minor: int
    handle: _Handle


class NvmlDriver:
    """Opens the driver when first asked and again after it failed. One thread at a time is served."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nvml: Any = None
        self._gpus: list[_Gpu] = []
        self._count = 0
        self._seen_us: dict[int, int] = {}
        self._problem = ""

    def inventory(self) -> tuple[GpuDevice, ...]:
        """The GPUs that answer, by minor number."""
        with self._lock:
            if not self._open():
                return ()
            return tuple(device for gpu in self._gpus if (device := self._device(gpu)) is not None)

    def sample(self) -> tuple[GpuSample, ...]:
        """What the GPUs did since they were last asked about, by minor number; who does not answer is left out."""
        with self._lock:
            if not self._open():
                return ()
            if len(self._gpus) < self._count:
                self._find()  # one that was lost may be back
            samples: list[GpuSample] = []
            for gpu in self._gpus:
                try:
                    samples.append(self._sample(gpu))
                except self._nvml.NVMLError as error:
                    self._tell(f"GPU {gpu.minor}: {error}")
            if not samples:
                self._close()  # the driver itself may be gone: start anew next time
            elif len(samples) == self._count:
                self._tell("")
            return tuple(samples)

    def release(self) -> None:
        """Let go of the driver until the next call: an open one keeps GPUs from being reset."""
        with self._lock:
            self._close()

    def _open(self) -> bool:
        if self._nvml is not None:
            return True
        try:
            import pynvml  # noqa: PLC0415  a node without GPUs never needs it
        except ImportError as error:
            self._tell(f"no pynvml: {error}")
            return False
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self._tell(f"NVML: {error}")
            return False
        self._nvml = pynvml
        self._find()
        return True

    def _close(self) -> None:
        if self._nvml is None:
            return
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as error:
            log.debug("NVML: %s", error)
        self._nvml, self._gpus, self._seen_us = None, [], {}

    def _find(self) -> None:
        """The GPUs that answer, by minor number."""
        self._gpus = []
        try:
            self._count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as error:
            self._tell(f"NVML: {error}")
            return
        for index in range(self._count):
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                minor = self._nvml.nvmlDeviceGetMinorNumber(handle)
            except self._nvml.NVMLError as error:
                self._tell(f"GPU with index {index}: {error}")
            else:
                self._gpus.append(_Gpu(index=index, minor=minor, handle=handle))
        self._gpus.sort(key=lambda gpu: gpu.minor)

    def _device(self, gpu: _Gpu) -> GpuDevice | None:
        nvml, handle = self._nvml, gpu.handle
        try:
            return GpuDevice(
                minor=gpu.minor,
                uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
                name=_text(nvml.nvmlDeviceGetName(handle)),
                memory_mib=nvml.nvmlDeviceGetMemoryInfo(handle).total // _MIB,
                mig=self._mig(handle),
            )
        except nvml.NVMLError as error:
            self._tell(f"GPU {gpu.minor}: {error}")
            return None

    def _mig(self, handle: _Handle) -> bool | None:
        try:
            current, _ = self._nvml.nvmlDeviceGetMigMode(handle)
        except self._nvml.NVMLError_NotSupported:
            return False
        except self._nvml.NVMLError:
            return None
        return current == self._nvml.NVML_DEVICE_MIG_ENABLE

    def _sample(self, gpu: _Gpu) -> GpuSample:
        nvml = self._nvml
        percents, now = self._percents(gpu)
        try:
            memory_mib = nvml.nvmlDeviceGetMemoryInfo(gpu.handle).used // _MIB
        except nvml.NVMLError_NotSupported:
            memory_mib = None
        try:
            pids = tuple(process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(gpu.handle))
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
            pids = ()
        return GpuSample(
            minor=gpu.minor,
            index=gpu.index,
            mean_percent=sum(percents) / len(percents),
            peak_percent=max(*percents, now),
            memory_mib=memory_mib,
            pids=pids,
        )

    def _percents(self, gpu: _Gpu) -> tuple[list[int], int]:
        """Utilisation since last time, and now. The driver keeps its samples of some 20 s (six a second): what a GPU
        did in between is not missed. Where it keeps none, it is what it says of the last second.
        """
        nvml = self._nvml
        now = nvml.nvmlDeviceGetUtilizationRates(gpu.handle).gpu
        seen_us = self._seen_us.get(gpu.minor)
        try:
            _, samples = nvml.nvmlDeviceGetSamples(gpu.handle, nvml.NVML_GPU_UTILIZATION_SAMPLES, seen_us or 0)
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_NotFound, nvml.NVMLError_FunctionNotFound):
            samples = []
        fresh = [sample for sample in samples if sample.timeStamp > (seen_us or 0)]  # places not filled have none
        if fresh:
            self._seen_us[gpu.minor] = max(sample.timeStamp for sample in fresh)
        # At the first look the samples kept are of whoever had the GPU before.
        return ([sample.sampleValue.uiVal for sample in fresh] if seen_us is not None else []) or [now], now

    def _tell(self, problem: str) -> None:
        """Log a problem once, for as long as it stays."""
        if problem != self._problem:
            self._problem = problem
            if problem:
                log.warning("%s; what it does is unknown, and its jobs are not called idle", problem)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
