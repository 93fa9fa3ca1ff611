"""What the service needs to have slices made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from slurmext.model.slice_state import SliceRecord
from slurmext.model.slicing import GpuUse


class Placeholders(Protocol):
    """Jobs that hold GPUs in Slurm's books. Raises SlurmUnavailable or SlurmRefused."""

    def hold_gpu(self, name: str, node: str, gpu_type: str, partitions: Sequence[str]) -> str:
        """Submit a job that has one GPU of the node and does nothing; returns its id."""
        ...

    def unlimit(self, job_id: str) -> None:
        """Let a job run without a time limit."""
        ...

    def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        ...


class SliceAgents(Protocol):
    """Orders to the agents of nodes. False: the agent is away, and is not told later."""

    def connected(self) -> Collection[str]:
        """Nodes whose agents are connected."""
        ...

    def reserve(
        self, slices: Sequence[SliceRecord], *, raw_id: str, uid: int, restarts: int, asked: Mapping[str, str]
    ) -> bool:
        """Have slices of one job on one node made when it starts; answered by the event `slice_reserved`. `asked` are
        the variables of the options that say so, for tasks that have none of them.
        """
        ...

    def withdraw(self, node: str, reservation: str) -> bool:
        """Forget a reservation, and free what was made for it; answered by `slice_freed`."""
        ...

    def free_warm(self, node: str, gpu: str, profile: str, start: int) -> bool:
        """Destroy an instance that nobody has."""
        ...

    def set_use(self, node: str, gpu: str, use: GpuUse) -> bool:
        """Make a GPU that nobody uses ready for this use."""
        ...
