"""A world in which slice plans happen: jobs start, end and leave warm instances, GPUs change their use. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from slurmext.model.job import JobState, NodeGpus
from slurmext.model.slicing import (
    GpuUse,
    Instance,
    InstanceState,
    Share,
    SlicedGpu,
    SliceJob,
    SlicePlace,
    SlicePlan,
    SliceSnapshot,
)


def step(
    snapshot: SliceSnapshot, made: SlicePlan, *, after_s: float = 10, ends: Collection[str] = (), warm: bool = True
) -> SliceSnapshot:
    """The world `after_s` seconds after the plan was carried out, when the jobs in `ends` have ended.

    Who was told to go has gone and waits again. With `warm` the instances of jobs that left stay.
    """
    now_s = snapshot.now_s + after_s
    going = {evict.job for evict in made.evict} | {move.job for move in made.move}
    everybody = (*snapshot.jobs, *snapshot.whole)
    going |= {job.id for job in everybody if job.evicting_for is not None and job.state is JobState.RUNNING}
    starts = {reserve.job: reserve.places for reserve in made.reserve}
    jobs: list[SliceJob] = []
    left: list[SlicePlace] = []
    for job in snapshot.jobs:
        if job.id in ends or job.state is JobState.COMPLETING:
            left += job.places
        elif job.id in starts:
            jobs.append(replace(job, state=JobState.RUNNING, places=starts[job.id], started_s=snapshot.now_s))
        elif job.id in going:
            left += job.places
            back = replace(job, state=JobState.PENDING, places=(), started_s=None, evicting_for=None)
            jobs.append(replace(back, preempted=job.preempted + 1))
        else:
            jobs.append(job)
    left_behind = [part for job in snapshot.whole if job.id in going for part in job.placement]
    whole = tuple(
        replace(job, state=JobState.PENDING, placement=(), evicting_for=None) if job.id in going else job
        for job in snapshot.whole
    )
    gpus, nodes = _turned(snapshot, made, left_behind, now_s)
    freed = {(free.gpu, free.start) for free in made.free_warm}
    kept = [
        replace(gpu, instances=tuple(one for one in gpu.instances if (gpu.uuid, one.start) not in freed))
        for gpu in gpus
    ]
    shown = show(kept, jobs, left if warm else (), gone=left, now_s=now_s)
    idle = tuple(replace(node, idle_gpus=nodes.get(node.name, {})) for node in snapshot.nodes)
    return replace(
        snapshot,
        now_s=now_s,
        jobs=tuple(jobs),
        whole=whole,
        gpus=tuple(shown),
        nodes=idle,
        holds=made.hold,
        taking=(),
    )


def _turned(
    snapshot: SliceSnapshot, made: SlicePlan, left_behind: Sequence[NodeGpus], now_s: float
) -> tuple[list[SlicedGpu], dict[str, Counter[str]]]:
    """GPUs in the use the plan wants, and what is idle then."""
    idle = {node.name: Counter(node.idle_gpus) for node in snapshot.nodes}
    kinds = {gpu.node: gpu.gpu_type for gpu in snapshot.gpus}
    for part in left_behind:
        idle[part.node][kinds[part.node]] += part.gpus
    back = {given.gpu for given in made.return_gpu}
    turned = {take.gpu: take.use for take in made.take_gpu if take.gpu}
    wanted = [take for take in made.take_gpu if not take.gpu]
    found: list[SlicedGpu] = []
    for gpu in snapshot.gpus:
        take = next((take for take in wanted if (take.node, take.gpu_type) == (gpu.node, gpu.gpu_type)), None)
        if gpu.uuid in back:
            found.append(replace(gpu, use=GpuUse.WHOLE, instances=(), since_s=now_s, empty_s=None))
            idle[gpu.node][gpu.gpu_type] += 1
        elif gpu.uuid in turned:
            found.append(replace(gpu, use=turned[gpu.uuid], instances=(), since_s=now_s, empty_s=now_s))
        elif gpu.use is GpuUse.WHOLE and take is not None:
            wanted.remove(take)
            idle[gpu.node][gpu.gpu_type] -= 1
            found.append(replace(gpu, use=take.use, since_s=now_s, empty_s=now_s))
        else:
            found.append(gpu)
    return found, idle


def show(
    gpus: Iterable[SlicedGpu],
    jobs: Iterable[SliceJob],
    left: Iterable[SlicePlace] = (),
    *,
    gone: Iterable[SlicePlace] = (),
    now_s: float = 0,
) -> list[SlicedGpu]:
    """The GPUs with the instances and shares of these jobs, and warm ones where somebody `left`."""
    places = [(job.id, place) for job in jobs for place in job.places]
    left, gone = list(left), list(gone)
    found: list[SlicedGpu] = []
    for gpu in gpus:
        mine = [(job, place) for job, place in places if place.gpu == gpu.uuid]
        busy = [
            Instance(profile=place.profile, start=place.start or 0, state=InstanceState.BUSY, job=job)
            for job, place in mine
            if place.profile is not None
        ]
        starts = {one.start for one in busy}
        was = {place.start for place in gone if place.gpu == gpu.uuid}
        warm = [one for one in gpu.instances if one.state is not InstanceState.BUSY and one.start not in starts | was]
        warm += [
            Instance(profile=place.profile, start=place.start or 0, state=InstanceState.WARM)
            for place in left
            if place.gpu == gpu.uuid and place.profile is not None and place.start not in starts
        ]
        shares = tuple(
            Share(job=job, percent=place.share_pct or 0, memory_mib=place.memory_mib or 0)
            for job, place in mine
            if place.profile is None
        )
        empty_s = None if mine else (gpu.empty_s if gpu.empty_s is not None else now_s)
        found.append(replace(gpu, instances=(*busy, *warm), shares=shares, empty_s=empty_s))
    return found
