"""A small Slurm in memory: ClusterReader, Actuator and Clock over jobs that are held, released, signalled, requeued."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from slurmext.errors import SlurmRefused, SlurmUnavailable
from slurmext.model.cluster import Annotation, ClusterView, JobRecord
from slurmext.model.heterogeneous import whole_jobs
from slurmext.model.job import JobState, NodeGpus
from slurmext.model.node import Node

_ENDED = frozenset({"COMPLETED", "CANCELLED", "FAILED"})
_HOLDING = frozenset({JobState.RUNNING, JobState.COMPLETING})


class FakeCluster:
    """Jobs are placed first fit when `tick` runs Slurm's scheduler. `log` has every act; `down` makes Slurm mute;
    `stuck` jobs are never started, `refuse` names jobs whose release Slurm refuses, `refuse_requeue` those it does not
    requeue; with `linger` completing jobs stay on their nodes. Of a user's jobs at most `user_max` run.
    `interrupt` is called when Slurm has requeued jobs, before its answer arrives.
    """

    def __init__(self, nodes: int = 4, gpus: int = 8) -> None:
        self.nodes = tuple(Node(name=f"n{i}", gpus=gpus, gpu_type="h100") for i in range(1, nodes + 1))
        self.records: dict[str, JobRecord] = {}
        self.now_s = 1000.0
        self.log: list[tuple[str, str]] = []
        self.down = False
        self.stuck: set[str] = set()
        self.refuse: set[str] = set()
        self.refuse_requeue: set[str] = set()
        self.linger = False
        self.user_max: int | None = None
        self.requeue_delay_s = 6
        self.interrupt: Callable[[str], None] = lambda _where: None
        self._next = 1

    # Clock

    def now(self) -> float:
        """The fake's time."""
        return self.now_s

    # what users do

    def submit(self, queue: str | None, gpus: int = 8, tasks: int = 1, *, managed: bool = True, **more: object) -> str:
        """Submit a job; a managed one is held as job_submit does. `more` overrides fields of record or annotation."""
        job_id = str(self._next)
        self._next += 1
        given = dict(more)
        noted = {
            key: given.pop(key)
            for key in (
                "ckpt", "preemptible", "held", "user_hold", "gang_min", "slice_profile", "slice_count", "gpu_mem_mib",
                "gpu_compute_pct", "share_pct", "oom_retry", "types",
            )
            if managed and key in given
        }  # fmt: skip
        annotation = Annotation(queue=queue, **noted) if managed else None  # type: ignore[arg-type]
        held = annotation is not None and annotation.held
        record = JobRecord(
            slurm_id=job_id, raw_id=job_id, user="alice", partition="main", state=JobState.PENDING,
            slurm_state="PENDING", priority=0 if held else 100, reason="JobHeldUser" if held else "None",
            gpus_per_task=gpus, tasks=tasks, tasks_per_node=1 if tasks > 1 else None,
            submit_s=int(self.now_s), annotation=annotation,
        )  # fmt: skip
        self.records[job_id] = replace(record, **given)  # type: ignore[arg-type]
        return job_id

    def submit_het(self, *gpus: int, ckpt: str | None = None) -> str:
        """Submit a heterogeneous job, each component with so many GPUs; Slurm starts it by itself."""
        job_id = str(self._next)
        for number, count in enumerate(gpus):
            name = f"{job_id}+{number}"
            raw_id = self.submit(None, gpus=count, managed=False, het=True, slurm_id=name, batch=not number)
            annotation = Annotation(ckpt=ckpt, held=False) if ckpt else None
            self.records[name] = replace(self.records.pop(raw_id), annotation=annotation)
        return job_id

    def _parts(self, job_id: str) -> list[str]:
        """The components of a heterogeneous job; else the job."""
        return [name for name in self.records if name.startswith(f"{job_id}+")] or [job_id]

    def end(self, job_id: str, state: str = "COMPLETED") -> None:
        """The job ends."""
        for part in self._parts(job_id):
            record = self.records[part]
            self.records[part] = replace(record, slurm_state=state, end_s=int(self.now_s), placement=())

    def tick(self, seconds: float = 1.0) -> None:
        """Time passes: completing jobs are gone from their nodes, released ones start where they fit."""
        self.now_s += seconds
        for job_id, record in list(self.records.items()):
            if record.state is JobState.COMPLETING and not self.linger:
                self.records[job_id] = replace(record, state=JobState.PENDING, slurm_state="PENDING", placement=())
        for job_id, record in sorted(
            self.records.items(), key=lambda item: (-(item[1].priority or 0), int(item[1].raw_id))
        ):
            ready = record.state is JobState.PENDING and record.slurm_state == "PENDING" and record.priority
            if ready and job_id not in self.stuck and not record.dependency and (record.eligible_s or 0) <= self.now_s:
                self._start(job_id)

    def _start(self, job_id: str) -> None:
        record = self.records[job_id]
        others = [other for other in self.records.values() if other.user == record.user]
        running = sum(other.state is JobState.RUNNING and other.slurm_state not in _ENDED for other in others)
        if self.user_max is not None and running >= self.user_max:
            self.records[job_id] = replace(record, reason="QOSMaxJobsPerUserLimit")
            return
        free = {node.name: node.gpus for node in self.nodes}
        for other in self.records.values():
            if other.state in _HOLDING and other.slurm_state not in {"COMPLETED", "CANCELLED"}:
                for part in other.placement:
                    free[part.node] -= free[part.node] if other.exclusive else part.gpus
        if record.exclusive:
            free = {node.name: free[node.name] if free[node.name] == node.gpus else 0 for node in self.nodes}
        wanted = record.required_nodes.split(",") if record.required_nodes else list(free)
        taken = dict.fromkeys(wanted, 0)
        for _ in range(record.tasks):
            node = next((name for name in wanted if free[name] >= record.gpus_per_task), None)
            if node is None:
                return
            free[node] -= record.gpus_per_task
            taken[node] += record.gpus_per_task
        kept = (gpus for gpus in taken.items() if gpus[1] or (not record.gpus_per_task and gpus[0] in wanted))
        placement = tuple(NodeGpus(node=node, gpus=gpus) for node, gpus in kept)
        self.records[job_id] = replace(
            record, state=JobState.RUNNING, slurm_state="RUNNING", start_s=int(self.now_s), placement=placement
        )

    # ClusterReader

    def read(self) -> ClusterView:
        """Everything."""
        self._require_up()
        ended = [record for record in self.records.values() if record.slurm_state in _ENDED]
        active = [record for record in self.records.values() if record not in ended]
        return ClusterView(read_s=self.now_s, nodes=self.nodes, jobs=tuple(active), ended=tuple(ended), rpcs=2)

    def find(self, job_ids: Collection[str]) -> Mapping[str, JobRecord]:
        """These jobs."""
        self._require_up()
        found = {**self.records, **whole_jobs(self.records.values())}
        return {job_id: found[job_id] for job_id in job_ids if job_id in found}

    # Actuator

    def release(self, job_ids: Sequence[str]) -> Mapping[str, str]:
        """Give each its priority back."""
        self._require_up()
        refused = {job_id: "Access denied" for job_id in job_ids if job_id in self.refuse}
        for job_id in job_ids:
            if job_id not in refused:
                self._act("release", job_id, priority=100, reason="None")
        return refused

    def set_nodes(self, job_id: str, nodes: Sequence[str], *, count: int | None = None) -> None:
        """Require nodes; `count` shrinks the job."""
        self._require_up()
        size = {} if count is None else {"tasks": count}
        for each in job_id.split(","):
            self._act("set_nodes", each, required_nodes=",".join(nodes), **size)

    def hold(self, job_id: str) -> None:
        """Priority zero."""
        self._require_up()
        self._act("hold", job_id, priority=0, reason="JobHeldAdmin")

    def put_first(self, job_id: str) -> None:
        """Nobody is before it any more."""
        self._act("put_first", job_id, priority=1000, reason="None")
        self.stuck.discard(job_id)

    def take_over(self, job_id: str) -> None:
        """Held and eligible."""
        self._require_up()
        self._act("take_over", job_id, priority=0, reason="JobHeldAdmin", eligible_s=int(self.now_s))

    def notify(self, raw_id: str, words: str) -> None:
        """Only noted."""
        self._require_up()
        self.log.append((f"notify {words}", raw_id))

    def signal(self, job_id: str, signal: str, *, script: bool = True) -> None:  # noqa: ARG002
        """Only noted: what the job does is the test's business."""
        self._require_up()
        if self._state(job_id) is not JobState.RUNNING:
            raise SlurmRefused(f"scancel {job_id}: job is not running")
        self.log.append((f"signal {signal}", job_id))

    def requeue(self, job_ids: Sequence[str]) -> Mapping[str, str]:
        """Completing, then pending; Slurm gives it a new submit time and its priority back.

        Of a heterogeneous job that waits for components that have ended, those are requeued, and it says no.
        """
        self._require_up()
        refused = {job_id: "job is not running" for job_id in job_ids if self._state(job_id) is not JobState.RUNNING}
        refused |= {job_id: "Requested operation is disabled" for job_id in job_ids if job_id in self.refuse_requeue}
        done = [job_id for job_id in job_ids if job_id not in refused]
        done += [
            part for job_id in refused for part in self._parts(job_id)[1:] if self.records[part].slurm_state in _ENDED
        ]
        for job_id in done:
            self._act(
                "requeue", job_id, state=JobState.COMPLETING, slurm_state="COMPLETING", priority=100,
                restarts=self.records[self._parts(job_id)[0]].restarts + 1, submit_s=int(self.now_s), start_s=None,
                eligible_s=int(self.now_s) + self.requeue_delay_s,
            )  # fmt: skip
        self.interrupt("requeued")
        return refused

    def _state(self, job_id: str) -> JobState:
        return self.records[self._parts(job_id)[0]].state

    def hold_requeued(self, job_ids: Sequence[str]) -> None:
        """Held and eligible."""
        self._require_up()
        for job_id in job_ids:
            self._act("hold_requeued", job_id, priority=0, reason="JobHeldAdmin", eligible_s=int(self.now_s))

    def expedite(self, job_ids: Sequence[str]) -> None:
        """Eligible."""
        self._require_up()
        for job_id in job_ids:
            self._act("expedite", job_id, eligible_s=int(self.now_s))

    def cancel(self, job_id: str) -> None:
        """Ends it."""
        self._require_up()
        self.end(job_id, "CANCELLED")

    # Placeholders

    def hold_gpu(self, name: str, node: str, gpu_type: str, partitions: Sequence[str]) -> str:
        """A job of SlurmUser's that takes one GPU of the node."""
        self._require_up()
        del gpu_type, partitions
        job_id = self.submit(None, gpus=1, managed=False, name=name, uid=0, user="slurm", required_nodes=node)
        self.log.append(("hold_gpu", job_id))
        return job_id

    def unlimit(self, job_id: str) -> None:
        """Only noted."""
        self.log.append(("unlimit", job_id))

    def _act(self, what: str, job_id: str, **changes: object) -> None:
        self.log.append((what, job_id))
        for part in self._parts(job_id):
            self.records[part] = replace(self.records[part], **changes)  # type: ignore[arg-type]

    def _require_up(self) -> None:
        if self.down:
            raise SlurmUnavailable("Unable to contact slurm controller")
