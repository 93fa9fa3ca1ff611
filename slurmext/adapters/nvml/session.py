"""An open NVML, shared by threads, and its errors in our words."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from slurmext.errors import GpuDriverError, GpuInUse, GpuNeedsReset, GpuPlaceTaken, SlurmextError

log = logging.getLogger(__name__)

_LOST = (1, 9, 15, 18, 999)
"""After these (nvmlReturn_t: uninitialised, not loaded, lost, mismatch, unknown) the library is opened anew."""
_MEANING: dict[int, type[GpuDriverError]] = {16: GpuNeedsReset, 19: GpuInUse, 23: GpuPlaceTaken}


class Session:
    """NVML, opened by the first call and kept until `release`; a call under way finishes first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nvml: Any = None
        self._users = 0
        self._leaving = False
        self.generation = 0
        """Counts how often it was opened: what was learned from an earlier one may be another driver's."""

    @contextmanager
    def open(self, doing: str) -> Iterator[Any]:
        """pynvml, initialised. Its errors become GpuDriverError (GpuInUse, GpuNeedsReset, GpuPlaceTaken)."""
        nvml = self._enter(doing)
        try:
            yield nvml
        except nvml.NVMLError as error:
            if error.value in _LOST:
                self._leaving = True
            raise translated(error, doing) from error
        finally:
            self._leave()

    def release(self) -> None:
        """Close it once nobody is in a call."""
        with self._lock:
            self._leaving = True
            self._close_if_unused()

    def _enter(self, doing: str) -> Any:
        with self._lock:
            if self._nvml is None:
                try:
                    import pynvml  # noqa: PLC0415  a node without GPUs never needs it
                except ImportError as error:
                    raise GpuDriverError(f"{doing}: no pynvml: pip install nvidia-ml-py") from error
                try:
                    pynvml.nvmlInit()
                except pynvml.NVMLError as error:
                    raise translated(error, doing) from error
                self._nvml, self._leaving = pynvml, False
                self.generation += 1
            self._users += 1
            return self._nvml

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._nvml is None or not self._leaving or self._users:
            return
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError as error:
            log.debug("NVML: %s", error)
        self._nvml = None


def translated(error: Any, doing: str) -> SlurmextError:
    """An NVMLError as one of ours."""
    return _MEANING.get(error.value, GpuDriverError)(f"{doing}: NVML says {error}")
