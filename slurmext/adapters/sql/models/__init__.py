"""The schema. docs/reference/database.md is made from the classes' docstrings and the columns' `doc`.

Times are Unix seconds. Every table, or the one its rows belong to, carries the cluster: one server can
serve several.
"""

from slurmext.adapters.sql.models.base import Base
from slurmext.adapters.sql.models.checkpoints import Checkpoint, CheckpointCopy, CheckpointCost, Failure, FailureRate
from slurmext.adapters.sql.models.record import Event, Extension, GpuActivity, Notice, QueueUse
from slurmext.adapters.sql.models.slices import Gpu, GpuHold, Slice, SliceSample
from slurmext.adapters.sql.models.staging import Model, ModelManifest, ModelName, ModelPin, ModelReplica
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
    "ModelManifest",
    "ModelName",
    "ModelPin",
    "ModelReplica",
    "Notice",
    "Plan",
    "Policy",
    "Preemption",
    "Queue",
    "QueueUse",
    "Reservation",
    "ReservationGpus",
    "Slice",
    "SliceSample",
]
