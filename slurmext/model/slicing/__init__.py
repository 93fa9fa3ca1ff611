"""GPU slices as the slice planner sees them: MIG instances and MPS shares, who needs some and who sits where.

Units: `memory_units` and `compute_slices` are NVML's (an H100 has 8 and 7, an RTX PRO 6000 has 12 and 4). A place on a
card is a profile and the first memory unit it takes; it takes `Profile.memory_units` of them from there. Nothing here
knows a card's table: all of it comes from what NVML reports.
"""

from slurmext.model.slicing.cards import (
    WHOLE_MILLI,
    Geometry,
    GpuUse,
    Instance,
    InstanceState,
    Profile,
    Share,
    SlicedGpu,
    SliceNode,
)
from slurmext.model.slicing.jobs import SliceDemand, SliceJob, SliceNeed, SlicePlace
from slurmext.model.slicing.plan import (
    FreeWarm,
    HoldPlaces,
    Reserve,
    ReturnGpu,
    SliceEvict,
    SliceMove,
    SlicePlan,
    TakeGpu,
)
from slurmext.model.slicing.snapshot import SlicePool, SliceSettings, SliceSnapshot

__all__ = [
    "WHOLE_MILLI",
    "FreeWarm",
    "Geometry",
    "GpuUse",
    "HoldPlaces",
    "Instance",
    "InstanceState",
    "Profile",
    "Reserve",
    "ReturnGpu",
    "Share",
    "SliceDemand",
    "SliceEvict",
    "SliceJob",
    "SliceMove",
    "SliceNeed",
    "SliceNode",
    "SlicePlace",
    "SlicePlan",
    "SlicePool",
    "SliceSettings",
    "SliceSnapshot",
    "SlicedGpu",
    "TakeGpu",
]
