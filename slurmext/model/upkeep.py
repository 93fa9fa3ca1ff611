"""What is known of checkpoints beyond that they are there: what they cost, where copies are, how often jobs fail."""

from __future__ import annotations

from dataclasses import dataclass

from slurmext.model.state import JobKey


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointCost:
    """What saving costs a job, as its library last said. Seconds; `cost_s` is training time lost per checkpoint (stall
    and slower steps), `every_s` the interval it chose, `mtbf_s` the mean time between failures it assumed.
    """

    job_id: str
    at_s: float
    saves: int
    nodes: int
    size_bytes: int
    stall_s: float
    write_s: float
    cost_s: float
    every_s: float
    mtbf_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointCopy:
    """A copy of a checkpoint in a node's memory. `tier` is `memory` on a node of the job and `peer` on another;
    `directory` is what is brought back into the checkpoint directory (node `-`). `done_bytes` less than `size_bytes`:
    under way.
    """

    job_id: str
    node: str
    name: str
    tier: str
    size_bytes: int
    done_bytes: int
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRecord:
    """A job's run that ended without anybody having announced it: `kind` is Slurm's state or `requeued`."""

    job: JobKey
    at_s: float
    kind: str
    nodes: str
    node_count: int
    ran_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRate:
    """Unannounced ends of runs, and seconds of nodes they were seen in; what is longer ago counts less."""

    count: float = 0.0
    node_s: float = 0.0
    at_s: float = 0.0
