"""SM use of GPUs and slices by GPM, NVML's counters of Hopper and newer: the mean between two samples."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from slurmext.model.mig import MigInstance

_APART_S = 0.1
"""Samples closer together say nothing (nvml.h)."""
_MOST = 512
_REFUSALS = {2, 3, 6, 13, 25}
"""nvmlReturn_t: the card, or this driver, has none of it, or the instance is gone."""


@dataclass(slots=True)
class _Last:
    generation: int
    sample: Any
    at_s: float


class SmMeter:
    """Remembers each GPU's and slice's last sample. Threads may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], _Last] = {}
        self._without: set[tuple[int, str]] = set()

    def read(self, nvml: Any, generation: int, handle: Any, gpu: str, instance: MigInstance | None) -> float | None:
        """SM use in percent since this was last read; None at first, too soon after that, and without GPM."""
        if (generation, gpu) in self._without:
            return None
        key, now_s = (gpu, instance.uuid if instance is not None else ""), time.monotonic()
        with self._lock:
            last = self._last.get(key)
            if last is not None and last.generation == generation and now_s - last.at_s < _APART_S:
                return None
            try:
                if not nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
                    self._without.add((generation, gpu))
                    return None
                sample = nvml.nvmlGpmSampleAlloc()
                if instance is None:
                    nvml.nvmlGpmSampleGet(handle, sample)
                else:
                    nvml.nvmlGpmMigSampleGet(handle, instance.gi, sample)
                mean = _mean(nvml, last.sample, sample) if last is not None and last.generation == generation else None
            except nvml.NVMLError as error:
                if error.value not in _REFUSALS:
                    raise
                return None
            if last is not None and last.generation == generation:
                nvml.nvmlGpmSampleFree(last.sample)
            if len(self._last) >= _MOST:
                self._last.clear()
            self._last[key] = _Last(generation, sample, now_s)
        return mean

    def forget(self, nvml: Any, generation: int, instance: MigInstance) -> None:
        """It is gone."""
        with self._lock:
            last = self._last.pop((instance.gpu, instance.uuid), None)
            if last is not None and last.generation == generation:
                nvml.nvmlGpmSampleFree(last.sample)


def _mean(nvml: Any, first: Any, second: Any) -> float | None:
    wanted = nvml.c_nvmlGpmMetricsGet_t()
    wanted.version, wanted.numMetrics = nvml.NVML_GPM_METRICS_GET_VERSION, 1
    wanted.sample1, wanted.sample2 = first, second
    wanted.metrics[0].metricId = nvml.NVML_GPM_METRIC_SM_UTIL
    metric = nvml.nvmlGpmMetricsGet(wanted).metrics[0]
    return float(metric.value) if metric.nvmlReturn == nvml.NVML_SUCCESS else None
