"""The schema. docs/reference/database.md is made from the classes' docstrings and the columns' `doc`.

Times are Unix seconds. Every table but `models` carries the cluster, so that one server can serve several.
"""

from slurmext.adapters.sql.models.base import Base
from slurmext.adapters.sql.models.checkpoints import Checkpoint, CheckpointCopy, CheckpointCost, Failure, FailureRate
from slurmext.adapters.sql.models.record import Event, Extension, GpuActivity, Notice, QueueUse
from slurmext.adapters.sql.models.slices import Gpu, GpuHold, Slice, SliceSample
from slurmext.adapters.sql.models.staging import Model, Replica
from slurmext.adapters.sql.models.steering import (
    Action,
    Job,
    Lease,
    Plan,
    Policy,
    Preemption,
    Queue,
    Reservation,
    ReservationGpus,
)

__all__ = [
    "Action",
    "Base",
    "Checkpoint",
    "CheckpointCopy",
    "CheckpointCost",
    "Event",
    "Extension",
    "Failure",
    "FailureRate",
    "Gpu",
    "GpuActivity",
    "GpuHold",
    "Job",
    "Lease",
    "Model",
    "Notice",
    "Plan",
    "Policy",
    "Preemption",
    "Queue",
    "QueueUse",
    "Replica",
    "Reservation",
    "ReservationGpus",
    "Slice",
    "SliceSample",
]
