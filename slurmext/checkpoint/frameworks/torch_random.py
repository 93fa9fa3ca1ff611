"""The random states of Python, NumPy, PyTorch and its GPUs, taken cheaply after every step."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Mapping
from typing import Any

import torch

_MT_BYTES = 2500  # 624 words and the position

_last: tuple[bytes, dict[str, Any]] | None = None


def get_random() -> dict[str, Any]:
    """All states of this process."""
    found: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy.random" in sys.modules:
        found["numpy"] = _numpy_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["cuda"] = [torch.cuda.get_rng_state(device) for device in range(torch.cuda.device_count())]
    return found


def set_random(saved: Mapping[str, Any]) -> None:
    """Go on with these."""
    random.setstate(_tuples(saved["python"]))
    torch.set_rng_state(saved["torch"])
    if "numpy" in saved:
        import numpy as np

        np.random.set_state(dict(saved["numpy"]))  # noqa: NPY002 - the global generator is what programs use
    for device, state in enumerate(saved.get("cuda", ())):
        if device < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, device)


def _numpy_state() -> dict[str, Any]:
    """Asking NumPy takes 50 µs, looking whether its memory is what it was takes 1: most programs draw nothing there."""
    global _last  # noqa: PLW0603 - one generator per process
    import numpy as np

    try:
        address = np.random.mtrand._rand._bit_generator.ctypes.state_address  # noqa: SLF001
        raw = ctypes.string_at(ctypes.cast(address, ctypes.c_void_p).value or 0, _MT_BYTES)
    except (AttributeError, TypeError, ctypes.ArgumentError):
        return np.random.get_state(legacy=False)  # noqa: NPY002
    # With a second normal value in store a draw changes nothing in the memory looked at.
    if _last is None or _last[0] != raw or _last[1].get("has_gauss"):
        _last = (raw, np.random.get_state(legacy=False))  # noqa: NPY002
    return _last[1]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
