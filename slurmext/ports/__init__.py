"""What the service needs of the world, as Protocols. Adapters implement them; tests pass fakes."""

from slurmext.ports.cluster import Actuator, Clock, ClusterReader
from slurmext.ports.gpus import DeviceAccess, GpuDriver, SliceDriver
from slurmext.ports.models import ModelRegistry
from slurmext.ports.slices import Placeholders, SliceAgents
from slurmext.ports.staging import StageAgents
from slurmext.ports.store import Store

__all__ = [
    "Actuator",
    "Clock",
    "ClusterReader",
    "DeviceAccess",
    "GpuDriver",
    "ModelRegistry",
    "Placeholders",
    "SliceAgents",
    "SliceDriver",
    "StageAgents",
    "Store",
]
