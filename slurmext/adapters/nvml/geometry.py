"""What a card can be cut into, as its driver tells: never from a table of ours.

The same name means other sizes on other boards, the same id other profiles on other cards, and NVML's numbers of
profiles (what one asks about) are not their ids (what one creates).
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

from slurmext.model.slicing import Geometry, Profile

_FUNCTION_NOT_FOUND, _VERSION_MISMATCH, _INVALID_ARGUMENT, _NOT_SUPPORTED = 13, 25, 2, 3
_MOST_NUMBERS = 64
"""Where to stop asking although the driver has not said that there are no more."""
_SUFFIXES = {7: "+me", 8: "+me", 10: "+gfx", 11: "+gfx", 12: "+gfx", 13: "-me", 14: "-me", 15: "+me.all",
             16: "+me.all", 17: "+gfx"}  # fmt: skip
"""By NVML_GPU_INSTANCE_PROFILE_*, for drivers that do not tell names."""
_PLAIN = re.compile(r"\d+g\.\d+gb")
_FRACTIONS = 8


def read_geometry(nvml: Any, handle: Any, memory_mib: int) -> Geometry | None:
    """The geometry of a card with so much memory; None when it cannot be cut, or tells only in MIG mode.

    Raises pynvml.NVMLError.
    """
    profiles: list[Profile] = []
    for number in range(_MOST_NUMBERS):
        try:
            info, name = _profile_info(nvml, handle, number, memory_mib)
        except nvml.NVMLError as error:
            if error.value == _NOT_SUPPORTED:
                continue
            if error.value == _INVALID_ARGUMENT:
                break
            raise
        places = _placements(nvml, handle, info.id)
        if places:
            profiles.append(
                Profile(
                    name=name,
                    profile_id=info.id,
                    memory_units=places[0][1],
                    compute_slices=info.sliceCount,
                    memory_mib=info.memorySizeMB,
                    sm=info.multiprocessorCount,
                    starts=tuple(sorted(start for start, _ in places)),
                    most=info.instanceCount,
                    automatic=_PLAIN.fullmatch(name) is not None,
                )
            )
    if not profiles:
        return None
    return Geometry(
        memory_units=max(profile.starts[-1] + profile.memory_units for profile in profiles),
        compute_slices=max(profile.compute_slices for profile in profiles),
        profiles=tuple(profiles),
    )


def _profile_info(nvml: Any, handle: Any, number: int, memory_mib: int) -> tuple[Any, str]:
    try:
        info = nvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, number, version=2)
    except nvml.NVMLError as error:
        if error.value not in {_FUNCTION_NOT_FOUND, _VERSION_MISMATCH}:
            raise
        info = nvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, number, version=1)
        return info, _name(info, number, memory_mib)
    name = info.name if isinstance(info.name, str) else info.name.decode()
    return info, name.removeprefix("MIG ") or _name(info, number, memory_mib)


def _placements(nvml: Any, handle: Any, profile_id: int) -> list[tuple[int, int]]:
    count = ctypes.c_uint(0)
    nvml.nvmlDeviceGetGpuInstancePossiblePlacements(handle, profile_id, None, ctypes.byref(count))
    places = (nvml.c_nvmlGpuInstancePlacement_t * max(count.value, 1))()
    nvml.nvmlDeviceGetGpuInstancePossiblePlacements(handle, profile_id, places, ctypes.byref(count))
    return [(place.start, place.size) for place in places[: count.value]]


def _name(info: Any, number: int, memory_mib: int) -> str:
    """The name that newer drivers tell: memory in eighths of the card's, rounded up, of its GB rounded up."""
    eighths = -(-info.memorySizeMB * _FRACTIONS // memory_mib)
    card_gb = -(-memory_mib // 1024)
    return f"{info.sliceCount}g.{int(eighths / _FRACTIONS * card_gb + 0.5)}gb{_SUFFIXES.get(number, '')}"
