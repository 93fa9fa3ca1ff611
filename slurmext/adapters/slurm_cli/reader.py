"""One batched read: `squeue -O` for jobs, `scontrol show node` for nodes, details only for jobs not seen before."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from slurmext.adapters.slurm_cli import annotation, dependency, fields
from slurmext.adapters.slurm_cli.arrays import TaskLimits, together
from slurmext.adapters.slurm_cli.runner import Answer, SlurmRunner
from slurmext.errors import SlurmRefused, SlurmUnavailable
from slurmext.model.cluster import ClusterView, JobRecord, NodeRoom
from slurmext.model.heterogeneous import whole_jobs
from slurmext.model.job import HOLDING, JobState, NodeGpus, Placement
from slurmext.model.node import Node
from slurmext.ports import Clock

_EXCLUSIVE = "Exclusive"
_BEFORE_26_05 = "OverSubscribe"
"""What told then that a job has its nodes for itself: `NO`, which 26.05 says of all that do not oversubscribe."""
# Named fields of `squeue -O`; size 0 = unlimited. Free text a user controls (the name) comes last, behind a
# separator drawn anew for every read, so that no name can pass for another field or row.
_FIELDS = (
    "JobArrayID",
    "JobID",
    "State",
    "Reason",
    "PriorityLong",
    "UserName",
    "UserID",
    "Account",
    "Partition",
    "tres-per-job",
    "tres-per-node",
    "tres-per-socket",
    "tres-per-task",
    "NumTasks",
    "NumNodes",
    "tres-alloc",
    "ReqNodes",
    "SchedNodes",
    "NodeList",
    "SubmitTime",
    "EligibleTime",
    "StartTime",
    "EndTime",
    "TimeLimit",
    "restartcnt",
    "requeue",
    "BatchFlag",
    "HetJobID",
    "Dependency",
    "QOS",
    "Licenses",
    "Reservation",
    _EXCLUSIVE,
    "exit_code",
    "admin_comment",
    "Name",
)
_NODE_GRES = re.compile(r"^\s+Nodes=(?P<nodes>\S+) .*?GRES=(?P<gres>\S*)", re.MULTILINE)
_KEY_VALUE = re.compile(r"(?:^|\s)(\w+)=((?:(?!\s\w+=).)*)")


class SlurmReader:
    """Implements ClusterReader over Slurm's commands."""

    def __init__(self, runner: SlurmRunner, clock: Clock) -> None:
        self._runner = runner
        self._clock = clock
        self._layouts = dict[tuple[str, int | None], Placement]()
        self._limits = TaskLimits(runner, clock)
        # --array takes an array's limit out of the line of the tasks that wait together; later Slurms (24.11) know no
        # other way, and each array is asked about once.
        self._each_task = "--array-unique"
        self._exclusive = _EXCLUSIVE

    def read(self) -> ClusterView:
        """Nodes and jobs as Slurm has them now. Raises SlurmUnavailable."""
        before = self._runner.calls
        read_s = self._clock.now()
        try:
            nodes, room = self._nodes()
            shown = dict[str, int]()
            records = list(self._jobs(shown))
        except SlurmRefused as refused:
            raise SlurmUnavailable(f"Slurm's answer could not be used: {refused}") from refused
        ended = tuple(job for job in records if job.slurm_state in fields.ENDED_STATES)
        active = [job for job in records if job.slurm_state not in fields.ENDED_STATES]
        active = [self._with_layout(job) for job in _without_fulfilled(active, ended)]
        active = self._limits.applied(active, ended, shown)
        held = {(job.slurm_id, job.start_s) for job in active if job.placement}
        self._layouts = {key: layout for key, layout in self._layouts.items() if key in held}
        return ClusterView(
            read_s=read_s,
            nodes=nodes,
            jobs=tuple(active),
            ended=ended,
            room=room,
            rpcs=self._runner.calls - before,
        )

    def _nodes(self) -> tuple[tuple[Node, ...], dict[str, NodeRoom]]:
        text = self._runner.must("scontrol", ["--oneliner", "show", "node"])
        nodes, room = list[Node](), dict[str, NodeRoom]()
        for line in text.splitlines():
            values: dict[str, str] = dict(_KEY_VALUE.findall(line))
            if "NodeName" not in values:
                continue
            count, types = fields.gpus(values.get("Gres", ""))
            room[values["NodeName"]] = _room(values)
            nodes.append(
                Node(
                    name=values["NodeName"],
                    gpus=count,
                    gpu_type=types[0] if types else "gpu",
                    state=fields.node_state(values.get("State", "")),
                    cpus=_number(values.get("CPUEfctv", values.get("CPUTot", ""))),
                    memory_mib=_number(values.get("RealMemory", "")),
                )
            )
        return tuple(nodes), room

    def find(self, job_ids: Collection[str]) -> Mapping[str, JobRecord]:
        """These jobs as Slurm has them now; jobs it no longer knows are left out."""
        wanted = sorted(job_ids)
        found = {job.slurm_id: job for job in self._jobs({}, f"--jobs={','.join(wanted)}")} if wanted else {}
        found = {job_id: self._with_layout(job) for job_id, job in found.items()}
        found |= whole_jobs(found.values())
        return {job_id: found[job_id] for job_id in wanted if job_id in found}

    def _jobs(self, limits: dict[str, int], *only: str) -> Iterator[JobRecord]:
        """Jobs, each task of an array for itself. `limits` gets those of arrays whose tasks wait together."""
        mark = f"!{secrets.token_hex(8)}!"
        answer = self._ask(mark, *only)
        if f"specification: {_EXCLUSIVE}" in answer.stderr:
            self._exclusive = _BEFORE_26_05
            answer = self._ask(mark, *only)
        # Asked for one job that it has purged, squeue fails; of several it leaves that one out.
        if answer.code != 0 and not (only and "Invalid job id" in answer.stderr):
            raise SlurmRefused(f"squeue: {answer.stderr or f'exit code {answer.code}'}")
        text = answer.stdout
        for line in text.split("\n"):
            job_id, ours, rest = line.partition(mark)
            if not ours:
                continue  # the rest of a name with a line break in it
            middle, _, name = rest.partition(mark)
            values = [job_id, *middle.split("|", len(_FIELDS) - 3), name]
            job = _job(dict(zip(_FIELDS, values, strict=True)), "NODE" if self._exclusive == _EXCLUSIVE else "NO")
            array = together(job_id)
            if array is None:
                yield job
                continue
            if job.slurm_state not in fields.ENDED_STATES:
                limits[array[0]] = array[2]
            for task in array[1]:
                yield replace(job, slurm_id=task)

    def _ask(self, mark: str, *only: str) -> Answer:
        spec = ",".join(
            [
                f"{_FIELDS[0]}:0{mark}",
                *(f"{self._exclusive if name == _EXCLUSIVE else name}:0|" for name in _FIELDS[1:-2]),
                f"{_FIELDS[-2]}:0{mark}",
                f"{_FIELDS[-1]}:0",
            ]
        )
        words = ["--noheader", "--all", "--states=all", *only, "-O", spec]
        answer = self._runner.run("squeue", [self._each_task, *words], env={"SLURM_BITSTR_LEN": "0"})
        if answer.code != 0 and "unrecognized option" in answer.stderr:
            self._each_task = "--array"
            answer = self._runner.run("squeue", [self._each_task, *words])
        return answer

    def _with_layout(self, job: JobRecord) -> JobRecord:
        """The job with its GPUs per node. Slurm tells that only job by job; it does not change while a job runs."""
        # A state that is not understood may well hold the nodes that Slurm lists for it.
        if job.state not in HOLDING or not job.placement or not (job.gpus_per_task or job.het):
            return replace(job, placement=())
        if not job.gpus_per_task:
            return job  # a component without GPUs: where it is, its tasks may have to be told something
        nodes = [part.node for part in job.placement]
        known = self._layouts.get((job.slurm_id, job.start_s))
        if known is not None and job.state is JobState.COMPLETING:
            # Only those that it has not left yet are still listed, and perhaps fewer tasks.
            return replace(job, placement=tuple(part for part in known if part.node in nodes))
        total = job.tasks * job.gpus_per_task
        if len(nodes) == 1:
            return replace(job, placement=(NodeGpus(node=nodes[0], gpus=total),))
        if job.tasks == len(nodes) and job.tasks_per_node == 1 and not job.total:
            return replace(job, placement=tuple(NodeGpus(node=node, gpus=job.gpus_per_task) for node in nodes))
        key = (job.slurm_id, job.start_s)
        if key not in self._layouts:
            self._layouts[key] = self._detail(job.slurm_id, frozenset(nodes)) or _even(nodes, total)
        there = self._layouts[key]
        if job.total and any(part.gpus != job.gpus_per_task for part in there):
            job = replace(job, tasks=total, gpus_per_task=1, tasks_per_node=None)  # 6 on two nodes of four: 4 and 2
        return replace(job, placement=there)

    def _detail(self, job_id: str, nodes: frozenset[str]) -> Placement:
        answer = self._runner.run("scontrol", ["--details", "show", "job", job_id])
        held = Counter[str]()
        for found in _NODE_GRES.finditer(answer.stdout):
            count, _ = fields.gpus(found["gres"])
            for node in fields.hosts(found["nodes"]):
                if node in nodes and node not in held:
                    held[node] = count
        return tuple(NodeGpus(node=node, gpus=count) for node, count in sorted(held.items()) if count)


def _without_fulfilled(active: Sequence[JobRecord], ended: Sequence[JobRecord]) -> list[JobRecord]:
    """The active jobs, without dependencies on jobs that have ended since."""
    if not any(job.dependency for job in active):
        return list(active)
    ids, states = {job.slurm_id for job in active}, {job.slurm_id: job.slurm_state for job in ended}
    single = {(job.user, job.name) for job in active if dependency.SINGLETON in job.dependency}
    behind = (
        dependency.followers(job for job in active if (job.user, job.name) in single) if single else frozenset[str]()
    )
    return [
        replace(job, dependency="")
        if job.dependency and not dependency.waits(job.dependency, ids, states, follows=job.slurm_id in behind)
        else job
        for job in active
    ]


def _job(row: Mapping[str, str], exclusive: str) -> JobRecord:
    slurm_state = row["State"].split("+", 1)[0]
    nodes = fields.hosts(row["NodeList"])
    request = _request(row)
    return JobRecord(
        slurm_id=row["JobArrayID"],
        raw_id=row["JobID"],
        name=row["Name"],
        user=row["UserName"],
        uid=_number(row["UserID"]),
        account=fields.text_or_none(row["Account"]) or "",
        partition=row["Partition"],
        state=fields.JOB_STATES.get(slurm_state, JobState.UNKNOWN),
        slurm_state=slurm_state,
        reason=row["Reason"],
        priority=_number(row["PriorityLong"]),
        gpus_per_task=request[1],
        tasks=request[0],
        tasks_per_node=request[2],
        types=request[3],
        total=request[4],
        nodes=_number(row["NumNodes"].split("-", 1)[0]) or 1,
        all_tasks=_number(row["NumTasks"]) or 1,
        cpus=fields.tres(row["tres-alloc"], "cpu"),
        memory_mib=fields.tres(row["tres-alloc"], "mem"),
        submit_s=fields.unix_time(row["SubmitTime"]) or 0,
        eligible_s=fields.unix_time(row["EligibleTime"]),
        start_s=fields.unix_time(row["StartTime"]),
        end_s=fields.unix_time(row["EndTime"]),
        time_limit_s=fields.duration(row["TimeLimit"]),
        restarts=_number(row["restartcnt"]) or 0,
        requeue=row["requeue"] == "1",
        batch=row["BatchFlag"] == "1",
        het=fields.text_or_none(row["HetJobID"]) not in {None, "0"},
        dependency=fields.text_or_none(row["Dependency"]) or "",
        required_nodes=fields.text_or_none(row["ReqNodes"]) or "",
        expected_nodes=fields.hosts(row["SchedNodes"]),
        terms=" ".join(fields.text_or_none(row[name]) or "-" for name in ("QOS", "Licenses")),
        reservation=fields.text_or_none(row["Reservation"]) or "",
        exclusive=row[_EXCLUSIVE] == exclusive,
        exit_status=fields.exit_status(row["exit_code"]),
        placement=tuple(NodeGpus(node=node, gpus=0) for node in nodes),
        annotation=annotation.parse(row["admin_comment"]),
    )


def _request(row: Mapping[str, str]) -> tuple[int, int, int | None, tuple[str, ...], bool]:
    """(tasks, GPUs per task, tasks per node, types, whether asked as a total) of the request, as the planner has it."""
    tasks, nodes = _number(row["NumTasks"]) or 1, _number(row["NumNodes"].split("-", 1)[0]) or 1
    count, types = fields.gpus(row["tres-per-task"])
    if count:
        return tasks, count, None, types, False
    count, types = fields.gpus(row["tres-per-node"])
    if count:
        return nodes, count, 1, types, False
    count, types = fields.gpus(row["tres-per-job"])
    if count:
        if nodes == 1:
            return 1, count, None, types, True
        return (nodes, count // nodes, 1, types, True) if count % nodes == 0 else (count, 1, None, types, True)
    count, types = fields.gpus(row["tres-per-socket"])
    return (nodes, count, 1, types, False) if count else (1, 0, None, (), False)


def _room(values: Mapping[str, str]) -> NodeRoom:
    def left(all_of: str, used: str) -> int | None:
        total, taken = _number(values.get(all_of, "")), _number(values.get(used, ""))
        return None if total is None or taken is None else max(0, total - taken)

    return NodeRoom(
        cpus=left("CPUEfctv" if "CPUEfctv" in values else "CPUTot", "CPUAlloc"),
        memory_mib=left("RealMemory", "AllocMem"),
        partitions=tuple(filter(None, values.get("Partitions", "").strip().split(","))),
    )


def _even(nodes: list[str], total: int) -> Placement:
    share, left = divmod(total, len(nodes)) if nodes else (0, 0)
    return tuple(NodeGpus(node=node, gpus=share + (i < left)) for i, node in enumerate(nodes))


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None
