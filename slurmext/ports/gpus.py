"""A node's GPUs, as the agent needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from slurmext.model.gpu import GpuDevice, GpuSample
from slurmext.model.mig import GpuCard, GpuProcess, MigInstance, SliceUse


class GpuDriver(Protocol):
    """Reads a node's GPUs. What cannot be read is left out: it is unknown, and nothing is done about it."""

    def inventory(self) -> tuple[GpuDevice, ...]:
        """The GPUs that answer, by minor number."""
        ...

    def sample(self) -> tuple[GpuSample, ...]:
        """What the GPUs did since they were last asked about, by minor number; who does not answer is left out."""
        ...

    def release(self) -> None:
        """Let go of the driver until the next call: an open one keeps GPUs from being reset."""
        ...


class SliceDriver(Protocol):
    """Cuts a node's GPUs. GPUs and instances are named by UUID. Every method raises GpuDriverError.

    Calls may come from several threads; no call waits for another one that concerns another GPU.
    """

    def cards(self) -> tuple[GpuCard, ...]:
        """The GPUs that answer, by minor number."""
        ...

    def instances(self, gpu: str) -> tuple[MigInstance, ...]:
        """Every GPU instance that exists there, also those without a compute instance; none where MIG is off."""
        ...

    def create(self, gpu: str, profile: str, start: int) -> MigInstance:
        """Make a GPU instance exactly there and the compute instance that fills it. Raises GpuPlaceTaken (also for a
        place that is not legal). What a failure left behind is taken away again if that is possible.
        """
        ...

    def destroy(self, instance: MigInstance) -> None:
        """Take the instance away: compute instance, then GPU instance. Nothing happens when it is gone already.

        Raises GpuOtherInstance when what is there has another UUID or place, GpuInUse when a process still has it.
        """
        ...

    def set_mig(self, gpu: str, *, on: bool) -> None:
        """Change the mode of a GPU that nobody uses. Raises GpuInUse, GpuNeedsReset (it stays as it was)."""
        ...

    def processes(self, gpu: str, instance: MigInstance | None = None) -> tuple[GpuProcess, ...]:
        """Processes on a whole GPU, or on one instance."""
        ...

    def use(self, gpu: str, instance: MigInstance | None = None) -> SliceUse:
        """Memory in use now, and SM use since this was last asked (None at first, and where the card has no GPM)."""
        ...

    def release(self) -> None:
        """Let go of the driver until the next call."""
        ...


class DeviceAccess(Protocol):
    """Who may open the devices of GPUs and instances. Raises DeviceAccessError."""

    def give(self, card: GpuCard, instance: MigInstance | None, *, uid: int, job_id: int) -> None:
        """Only this user (and root) may open the instance; without one: the GPU may be opened as ever."""
        ...

    def take_back(self, card: GpuCard, instance: MigInstance | None, *, job_id: int) -> None:
        """Nobody but root may open the instance any more. Nothing happens when it is gone."""
        ...

    def admit(self, pid: int, devices: Sequence[tuple[GpuCard, MigInstance | None]], *, job_id: int) -> str:
        """Let the job of a process (a task's, before it starts) open these GPUs and instances and no others.

        Where Slurm constrains devices, a slice job could otherwise not open its GPU. Returns the kinds of cgroup it
        was done with; nothing where the process is in none of its job's.
        """
        ...
