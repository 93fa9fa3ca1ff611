"""The slice planner's snapshot: jobs, nodes and cards, after whole-GPU jobs were planned. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from slurmext.model.cluster import ClusterView, JobRecord
from slurmext.model.job import Job, JobState
from slurmext.model.plan import Plan, Reason
from slurmext.model.slice_state import GpuHold, HoldState, SliceRecord, SliceState
from slurmext.model.slicing import (
    HoldPlaces,
    SliceDemand,
    SlicedGpu,
    SliceJob,
    SliceNeed,
    SliceNode,
    SliceSettings,
    SliceSnapshot,
    TakeGpu,
)
from slurmext.model.snapshot import Snapshot
from slurmext.service.slices.cards import cards_of, place_of
from slurmext.service.slices.grow import grown
from slurmext.service.slices.memory import SliceMemory

_WANTS_GPUS = frozenset({Reason.NO_FREE_GPUS, Reason.FRAGMENTED, Reason.RECLAIMING, Reason.CONSOLIDATING})

_NOTHING_DONE = frozenset({Reason.NO_FREE_GPUS, Reason.FRAGMENTED})
"""Reasons of whole-GPU jobs for whom nobody leaves."""


def slice_job(job: Job, record: JobRecord, places: Sequence[SliceRecord], *, nodes: tuple[str, ...]) -> SliceJob:
    """A managed job of slices; `job` is what is common to all jobs, `nodes` those its user required."""
    note = record.annotation
    movable = note is not None and note.ckpt is not None and job.requeue and job.preemptible
    return SliceJob(
        id=job.id,
        queue=job.queue,
        need=need_of(record),
        state=job.state,
        user=job.user,
        groups=job.groups,
        priority=job.priority,
        submitted_s=job.submitted_s,
        started_s=job.started_s,
        time_limit_s=job.time_limit_s,
        checkpoint_s=job.checkpoint_s,
        eligible_s=job.eligible_s,
        blocked=job.blocked,
        caps=job.caps,
        preemptible=job.preemptible,
        requeue=job.requeue,
        preempted=job.preempted,
        evicting_for=job.evicting_for,
        movable=movable,
        types=tuple(kind for kind in job.types if kind != "any") if "any" not in job.types else (),
        candidates=nodes,
        cpus=-(-record.cpus // max(1, record.nodes)),
        memory_per_node_mib=-(-record.memory_mib // max(1, record.nodes)),
        places=tuple(place_of(each) for each in places if each.state is not SliceState.MISSED),
    )


def need_of(record: JobRecord) -> SliceNeed:
    """What the job asks for, on each of its nodes: so many slices as it says, else one for each task there."""
    note = record.annotation
    assert note is not None  # noqa: S101  only managed jobs come here
    nodes = max(1, record.nodes)
    tasks = max(1, -(-record.all_tasks // nodes))
    if note.share_pct is not None:
        # all tasks of a node run under one share, as its user sized it
        return SliceNeed(share_pct=note.share_pct, memory_mib=note.gpu_mem_mib, per_node=1, nodes=nodes)
    return SliceNeed(
        profile=note.slice_profile,
        memory_mib=note.gpu_mem_mib,
        compute_pct=note.gpu_compute_pct,
        per_node=note.slice_count or tasks,
        nodes=nodes,
    )


def slice_snapshot(
    view: ClusterView,
    snapshot: Snapshot,
    jobs: Sequence[SliceJob],
    plan: Plan,
    memory: SliceMemory,
    settings: SliceSettings,
    *,
    empty_since: Mapping[str, float],
    holds: Sequence[HoldPlaces] = (),
    shut: Collection[str] = (),
    mix: Sequence[SliceDemand] = (),
) -> SliceSnapshot:
    """Everything the planner may look at. `plan` is what was decided for whole-GPU jobs a moment ago; of nodes that are
    `shut` no idle GPU can be taken.
    """
    partition_of = {record.slurm_id: record.partition for record in view.jobs}
    gpu_types = {node.name: node.gpu_type for node in view.nodes}
    cards = cards_of(memory.gpus, memory.records, memory.holds, gpu_types=gpu_types, connected=memory.connected,
                     empty_since=empty_since, freed=memory.freed)  # fmt: skip
    return SliceSnapshot(
        now_s=snapshot.now_s,
        settings=settings,
        nodes=tuple(replace(node, shut=node.name in shut) for node in _nodes(view, snapshot, jobs, plan, memory)),
        gpus=cards,
        queues=snapshot.queues,
        jobs=tuple(
            _with_growth(job, memory, cards, _partition_nodes(view, partition_of.get(job.id, ""))) for job in jobs
        ),
        whole=_whole(snapshot, plan),
        beside=_beside(view),
        wanted_gpus=_wanted(snapshot, plan),
        owed=tuple(job for job, reason in sorted(plan.reasons.items()) if reason in _NOTHING_DONE),
        taking=_taking(memory, cards),
        holds=tuple(holds),
        mix=tuple(mix),
    )


def _whole(snapshot: Snapshot, plan: Plan) -> tuple[Job, ...]:
    """The whole-GPU jobs as they are once the plan is carried out: who is to start counts, who is to leave leaves."""
    fences = {fence.beneficiary: fence.placement for fence in plan.fence}
    places = fences | {release.job: release.placement for release in plan.release}
    going = {each.job: each.beneficiary for each in (*plan.evict, *plan.move)}

    def later(job: Job) -> Job:
        if job.state is JobState.PENDING and job.id in places:
            return replace(job, state=JobState.UNKNOWN, placement=places[job.id])  # it counts, and nobody acts on it
        return replace(job, evicting_for=going[job.id]) if job.id in going and job.evicting_for is None else job

    return tuple(later(job) for job in snapshot.jobs if job.queue and not job.id.startswith("slices of "))


def _beside(view: ClusterView) -> dict[str, tuple[int, int]]:
    """What whole-GPU jobs have of each of their nodes: CPUs and MiB."""
    return {
        record.slurm_id: (record.cpus // max(1, record.nodes), record.memory_mib // max(1, record.nodes))
        for record in view.jobs
        if record.gpus_per_task and record.state is JobState.RUNNING
    }


def _with_growth(job: SliceJob, memory: SliceMemory, cards: Sequence[SlicedGpu], nodes: tuple[str, ...]) -> SliceJob:
    """The job on its partition's `nodes`, where it missed its slices only if it must.

    One that ran out of GPU memory and is tried again asks for the next size.
    """
    job = replace(job, candidates=nodes) if nodes and not job.candidates else job
    failed = {miss.node for miss in memory.misses if miss.job.job_id == job.id}
    if failed:
        every = job.candidates or tuple(sorted({card.node for card in cards}))
        left = tuple(node for node in every if node not in failed)
        job = replace(job, candidates=left) if len(left) >= job.need.nodes else job
    if not memory.outgrown or job.places:
        return job
    outgrown = memory.outgrown.get(job.id)
    return job if outgrown is None else replace(job, need=grown(job.need, outgrown, cards))


def _partition_nodes(view: ClusterView, partition: str) -> tuple[str, ...]:
    """Nodes of these partitions (a comma list); empty: all, or not known."""
    wanted = set(filter(None, partition.split(",")))
    there = tuple(name for name, room in view.room.items() if wanted & set(room.partitions))
    return () if len(there) == len(view.room) else there


def _nodes(
    view: ClusterView, snapshot: Snapshot, jobs: Sequence[SliceJob], plan: Plan, memory: SliceMemory
) -> tuple[SliceNode, ...]:
    """What nodes have left: Slurm does not know yet of jobs that are about to start, nor of GPUs being taken."""
    used = Counter[str]()
    for job in snapshot.jobs:
        if job.state is not JobState.PENDING:
            for part in job.placement:
                used[part.node] += part.gpus
    fences = {fence.beneficiary: fence.placement for fence in (*snapshot.fences, *plan.fence)}
    for placement in ({release.job: release.placement for release in plan.release} | fences).values():
        for part in placement:
            used[part.node] += part.gpus
    running = {record.slurm_id for record in view.jobs if record.state is not JobState.PENDING}
    cpus, mib = Counter[str](), Counter[str]()
    for job in jobs:
        if job.places and job.id not in running:
            for node in {place.node for place in job.places}:
                cpus[node] += job.cpus
                mib[node] += job.memory_per_node_mib
    for hold in memory.holds:
        if hold.state in {HoldState.INTENT, HoldState.SUBMITTED} and hold.job_id not in running:
            cpus[hold.node] += 1
    found = list[SliceNode]()
    for node in snapshot.nodes:
        room = view.room.get(node.name)
        free_cpus = None if room is None or room.cpus is None else max(0, room.cpus - cpus[node.name])
        free_mib = None if room is None or room.memory_mib is None else max(0, room.memory_mib - mib[node.name])
        idle = max(0, node.gpus - used[node.name])
        found.append(
            SliceNode(name=node.name, state=node.state, free_cpus=free_cpus, free_memory_mib=free_mib,
                      idle_gpus={node.gpu_type: idle} if idle else {})
        )  # fmt: skip
    return tuple(found)


def _wanted(snapshot: Snapshot, plan: Plan) -> dict[str, int]:
    """GPUs that whole-GPU jobs wait for because none is free, by type ("": any)."""
    wanted = Counter[str]()
    for job in snapshot.jobs:
        if job.state is JobState.PENDING and plan.reasons.get(job.id) in _WANTS_GPUS:
            wanted[job.types[0] if len(job.types) == 1 else ""] += job.gpus
    return dict(wanted)


def _taking(memory: SliceMemory, cards: Sequence[SlicedGpu]) -> tuple[TakeGpu, ...]:
    """GPUs on their way into sliced use, or from one sliced use into another."""
    said = {gpu.uuid: gpu.use for gpu in memory.gpus}
    known = {card.uuid for card in cards}

    def under_way(hold: GpuHold) -> bool:
        if hold.state in {HoldState.INTENT, HoldState.SUBMITTED}:
            return True
        return hold.state is HoldState.HELD and hold.gpu in known and said.get(hold.gpu) is not hold.use

    return tuple(
        TakeGpu(node=hold.node, gpu_type=hold.gpu_type, use=hold.use, gpu=hold.gpu, job=hold.for_job)
        for hold in memory.holds
        if under_way(hold)
    )
