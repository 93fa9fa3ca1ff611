"""Slurm and the clock, as the service needs them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from slurmext.model.cluster import ClusterView, JobRecord


class Clock(Protocol):
    """Unix seconds."""

    def now(self) -> float:
        """Now, in Unix seconds."""
        ...


class ClusterReader(Protocol):
    """Reads Slurm. Raises SlurmUnavailable when it does not answer."""

    def read(self) -> ClusterView:
        """One batched read of nodes and jobs."""
        ...

    def find(self, job_ids: Collection[str]) -> Mapping[str, JobRecord]:
        """These jobs as Slurm has them now, ended ones included; jobs it no longer knows are left out."""
        ...


class Actuator(Protocol):
    """Acts on jobs through Slurm. Raises SlurmUnavailable (try again) or SlurmRefused (Slurm's own words)."""

    def release(self, job_ids: Sequence[str]) -> Mapping[str, str]:
        """Release held pending jobs; returns job id -> why for those Slurm refused."""
        ...

    def set_nodes(self, job_id: str, nodes: Sequence[str], *, count: int | None = None) -> None:
        """Require these nodes for a pending job (empty: none) and, with `count`, give it that many nodes.

        Without `count` it may be several jobs, a comma list of numbers; refused as soon as one of them is.
        """
        ...

    def hold(self, job_id: str) -> None:
        """Hold a pending job so that its user cannot release it."""
        ...

    def put_first(self, job_id: str) -> None:
        """Have Slurm consider a released job before every other that waits."""
        ...

    def take_over(self, job_id: str) -> None:
        """Hold a pending job like `hold`, and make it eligible now: its user released it to us."""
        ...

    def notify(self, raw_id: str, words: str) -> None:
        """Write a line into a running job's error output; takes SLURM_JOB_ID, for array tasks as well."""
        ...

    def signal(self, job_id: str, signal: str, *, script: bool = True) -> None:
        """Send a signal (`USR1`) to every process of the job: batch shell and steps."""
        ...

    def requeue(self, job_ids: Sequence[str]) -> Mapping[str, str]:
        """Requeue running jobs; returns job id -> why for those Slurm refused."""
        ...

    def hold_requeued(self, job_ids: Sequence[str]) -> None:
        """Begin to hold requeued jobs and make them eligible; does not wait, and may be called until it shows."""
        ...

    def expedite(self, job_ids: Sequence[str]) -> None:
        """Begin to make requeued heterogeneous jobs eligible; does not wait, and may be called until it shows."""
        ...

    def cancel(self, job_id: str) -> None:
        """Cancel a job."""
        ...
