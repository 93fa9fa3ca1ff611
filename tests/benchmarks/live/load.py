"""What is to run, and on what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slurmext.simulate.workload import TraceJob

DAY_S = 86400.0


WEEK_NODES, NODE_GPUS = 32, 8


SPARE = "spare"
"""A queue that is guaranteed nothing: all that runs in it may be taken back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to run: times in seconds of the lapse. `gpus` per queue is guaranteed."""

    jobs: tuple[TraceJob, ...]
    quotas: Mapping[str, int]
    nodes: int
    lasts_s: float

    def policy(self) -> str:
        """The policy file."""
        queues = "".join(f'  "{queue}": {{guaranteed: {gpus}}}\n' for queue, gpus in self.quotas.items())
        return f"version: 1\nsettings: {{grace_s: 10, requeue_delay_s: 6}}\nqueues:\n  {SPARE}: {{guaranteed: 0}}\n{queues}"


def node_names(count: int) -> list[str]:
    return [f"n{number}" for number in range(1, count + 1)]
