"""A GpuDriver over pynvml. Every error makes what was asked about unknown; none is raised."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from slurmext.model.gpu import GpuDevice, GpuSample

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

log = logging.getLogger(__name__)

_MIB = 1 << 20
_Handle = Any


class NvmlDriver:
    """Opens the driver when first asked and again after it failed. One thread at a time is served."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nvml: Any = None
        self._handles: dict[int, _Handle] = {}
        self._seen_us: dict[int, int] = {}
        self._problem = ""

    def inventory(self) -> tuple[GpuDevice, ...]:
        """The GPUs that answer, by minor number."""
        with self._lock:
            if not self._open():
                return ()
            return tuple(device for minor in sorted(self._handles) if (device := self._device(minor)) is not None)

    def sample(self, minors: Collection[int]) -> Mapping[int, GpuSample]:
        """What these GPUs (by minor number) did since they were last asked about."""
        with self._lock:
            if not self._open():
                return {}
            if not set(minors) <= self._handles.keys():
                self._find()  # one that was lost may be back
            samples: dict[int, GpuSample] = {}
            failed = False
            for minor in minors:
                try:
                    samples[minor] = self._sample(minor)
                except (self._nvml.NVMLError, KeyError) as error:
                    failed = True
                    self._tell(f"GPU {minor}: {'not there' if isinstance(error, KeyError) else error}")
            if failed and not samples:
                self._close()  # the driver itself may be gone: start anew next time
            elif not failed:
                self._tell("")
            return samples

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
        self._nvml, self._handles, self._seen_us = None, {}, {}

    def _find(self) -> None:
        self._handles = dict(self._answering())

    def _answering(self) -> Iterator[tuple[int, _Handle]]:
        try:
            count = self._nvml.nvmlDeviceGetCount()
        except self._nvml.NVMLError as error:
            self._tell(f"NVML: {error}")
            return
        for index in range(count):
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                yield self._nvml.nvmlDeviceGetMinorNumber(handle), handle
            except self._nvml.NVMLError as error:
                self._tell(f"GPU with index {index}: {error}")

    def _device(self, minor: int) -> GpuDevice | None:
        nvml, handle = self._nvml, self._handles[minor]
        try:
            return GpuDevice(
                minor=minor,
                uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
                name=_text(nvml.nvmlDeviceGetName(handle)),
                memory_mib=nvml.nvmlDeviceGetMemoryInfo(handle).total // _MIB,
                mig=self._mig(handle),
            )
        except nvml.NVMLError as error:
            self._tell(f"GPU {minor}: {error}")
            return None

    def _mig(self, handle: _Handle) -> bool | None:
        try:
            current, _ = self._nvml.nvmlDeviceGetMigMode(handle)
        except self._nvml.NVMLError_NotSupported:
            return False
        except self._nvml.NVMLError:
            return None
        return current == self._nvml.NVML_DEVICE_MIG_ENABLE

    def _sample(self, minor: int) -> GpuSample:
        handle = self._handles[minor]
        percents = self._percents(minor, handle)
        try:
            memory_mib = self._nvml.nvmlDeviceGetMemoryInfo(handle).used // _MIB
        except self._nvml.NVMLError_NotSupported:
            memory_mib = None
        return GpuSample(mean_percent=sum(percents) / len(percents), peak_percent=max(percents), memory_mib=memory_mib)

    def _percents(self, minor: int, handle: _Handle) -> list[int]:
        """Utilisation since last time. The driver keeps its samples of some 20 s (six a second): what a GPU did in
        between is not missed. Where it keeps none, it is what it says of the last second.
        """
        nvml = self._nvml
        try:
            _, samples = nvml.nvmlDeviceGetSamples(
                handle, nvml.NVML_GPU_UTILIZATION_SAMPLES, self._seen_us.get(minor, 0)
            )
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_NotFound):
            samples = []
        known = minor in self._seen_us
        if samples:
            self._seen_us[minor] = max(sample.timeStamp for sample in samples)
        # At the first look the samples kept are of whoever had the GPU before.
        if samples and known:
            return [sample.sampleValue.uiVal for sample in samples]
        return [nvml.nvmlDeviceGetUtilizationRates(handle).gpu]

    def _tell(self, problem: str) -> None:
        """Log a problem once, for as long as it stays."""
        if problem != self._problem:
            self._problem = problem
            if problem:
                log.warning("%s; what it does is unknown, and its jobs are not called idle", problem)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
