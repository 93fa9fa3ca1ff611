"""What Slurm says, before policy: the values a ClusterReader returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slurmext.model.job import JobState, Placement
from slurmext.model.node import Node

TASK_LIMIT = "JobArrayTaskLimit"
"""Slurm's reason of a task that its array's limit (`%N`) keeps waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """What the user asked of slurmext, as job_submit wrote it into the job's admin comment.

    `held` is False for a job that was let through unheld because the daemon was not there; `user_hold` is True for
    one submitted with --hold, which waits for its user to release it. A part of a GPU is `slice_count` (None: one for
    each task of a node) times `slice_profile`, or a share of `share_pct` with `gpu_mem_mib`, or whatever has
    `gpu_mem_mib` and `gpu_compute_pct`.
    """

    queue: str | None = None
    ckpt: str | None = None
    ckpt_dir: str | None = None
    types: tuple[str, ...] = ()
    gang_min: int | None = None
    slice_profile: str | None = None
    slice_count: int | None = None
    gpu_mem_mib: int | None = None
    gpu_compute_pct: int | None = None
    share_pct: int | None = None
    oom_retry: bool = False
    preload: tuple[str, ...] = ()
    preemptible: bool = True
    held: bool = True
    user_hold: bool = False

    @property
    def sliced(self) -> bool:
        """Whether the job runs on parts of GPUs."""
        asked = (self.slice_profile, self.gpu_mem_mib, self.gpu_compute_pct, self.share_pct)
        return any(part is not None for part in asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job or array task of Slurm. Times are Unix seconds; None = not known or not set.

    `slurm_id` is what Slurm's commands take (`12`, `12_4`); `raw_id` is SLURM_JOB_ID inside the job; `reason` is
    Slurm's own pending reason; `batch` is False for srun and salloc, which cannot be requeued; `het` marks a component
    of a heterogeneous job, or the whole of one (model/heterogeneous.py), which has `components`. `total` marks one
    whose GPUs are asked for all together: how many are on which of its nodes is up to Slurm. `nodes`, `cpus` and
    `memory_mib` are what it asks for or has in all, `all_tasks` its tasks as its user counts them. Of its array no more
    than `array_limit` tasks run at a time. `terms` are its QOS and licenses as Slurm prints them; `reservation` is the
    one that it runs in, `exclusive` whether it has its nodes for itself; `exit_status` is that of wait(2). Slurm's
    backfill expects a waiting one to start on `expected_nodes`.
    """

    slurm_id: str
    raw_id: str = ""
    name: str = ""
    user: str = ""
    uid: int | None = None
    account: str = ""
    partition: str = ""
    state: JobState = JobState.UNKNOWN
    slurm_state: str = ""
    reason: str = ""
    priority: int | None = None
    gpus_per_task: int = 0
    tasks: int = 1
    tasks_per_node: int | None = None
    types: tuple[str, ...] = ()
    total: bool = False
    nodes: int = 1
    all_tasks: int = 1
    cpus: int = 0
    memory_mib: int = 0
    submit_s: int = 0
    eligible_s: int | None = None
    start_s: int | None = None
    end_s: int | None = None
    time_limit_s: int | None = None
    restarts: int = 0
    requeue: bool = True
    batch: bool = True
    het: bool = False
    dependency: str = ""
    required_nodes: str = ""
    expected_nodes: tuple[str, ...] = ()
    array_limit: int | None = None
    terms: str = ""
    reservation: str = ""
    exclusive: bool = False
    exit_status: int | None = None
    placement: Placement = ()
    annotation: Annotation | None = None
    components: tuple[JobRecord, ...] = ()

    @property
    def held(self) -> bool:
        """Pending with priority zero."""
        return self.state is JobState.PENDING and self.priority == 0

    @property
    def reserved(self) -> bool:
        """Whether whole GPUs of a reservation are kept for it: those are not ours to give."""
        return bool(self.reservation) and not (self.annotation is not None and self.annotation.sliced)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRoom:
    """What of a node no job has, besides GPUs; None: not known or not limited. `partitions` are those it is in."""

    cpus: int | None = None
    memory_mib: int | None = None
    partitions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """One batched read. `read_s` is when it was asked for (Unix seconds); `ended` are jobs Slurm still remembers;
    `rpcs` counts Slurm commands spent on it, `room` is what nodes have left.
    """

    read_s: float
    nodes: tuple[Node, ...] = ()
    jobs: tuple[JobRecord, ...] = ()
    ended: tuple[JobRecord, ...] = ()
    room: Mapping[str, NodeRoom] = field(default_factory=dict[str, NodeRoom])
    rpcs: int = 0
