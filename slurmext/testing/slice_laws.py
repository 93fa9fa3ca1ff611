"""What no slice plan may ever do, checked against the snapshot alone: nothing of the planner is used here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from slurmext.model.job import HOLDING, JobState
from slurmext.model.node import NodeState
from slurmext.model.plan import QueueUsage, Reason
from slurmext.model.slicing import (
    GpuUse,
    Instance,
    InstanceState,
    Profile,
    SlicedGpu,
    SliceJob,
    SlicePlace,
    SlicePlan,
    SliceSnapshot,
)

HELD = {InstanceState.BUSY, InstanceState.RESERVED, InstanceState.FOREIGN, InstanceState.UNKNOWN}


def violations(snapshot: SliceSnapshot, made: SlicePlan) -> list[str]:
    """Laws that the plan breaks, in words; empty when all is well."""
    gpus = {gpu.uuid: gpu for gpu in snapshot.gpus}
    jobs = {job.id: job for job in snapshot.jobs}
    return [
        *_reasons(snapshot, made),
        *_reservations(snapshot, made, gpus, jobs),
        *_cards(snapshot, made, gpus),
        *_beside(snapshot, made, jobs),
        *_limits(snapshot, made, gpus),
        *_uses(snapshot, made, gpus),
        *_disturbed(snapshot, made, jobs),
        *_capped(snapshot, made, jobs),
    ]


def _reasons(snapshot: SliceSnapshot, made: SlicePlan) -> Iterator[str]:
    waiting = {job.id for job in snapshot.jobs if job.state is JobState.PENDING and not job.places}
    started = [reserve.job for reserve in made.reserve]
    if len(set(started)) != len(started):
        yield "a job is reserved for twice"
    if not set(started) <= waiting:
        yield f"{sorted(set(started) - waiting)} are reserved for and do not wait"
    if set(made.reasons) != waiting - set(started):
        yield f"reasons are of {sorted(made.reasons)}, those who wait are {sorted(waiting - set(started))}"
    if not set(made.details) <= set(made.reasons):
        yield "details without a reason"


def _reservations(
    snapshot: SliceSnapshot, made: SlicePlan, gpus: Mapping[str, SlicedGpu], jobs: Mapping[str, SliceJob]
) -> Iterator[str]:
    up = {node.name for node in snapshot.nodes if node.state is NodeState.UP}
    for reserve in made.reserve:
        job = jobs[reserve.job]
        on_node = Counter(place.node for place in reserve.places)
        if len(on_node) != job.need.nodes or any(count != job.need.per_node for count in on_node.values()):
            yield f"{job.id} gets {dict(on_node)}, not {job.need.per_node} on each of {job.need.nodes} nodes"
        if not set(on_node) <= up or (job.candidates and not set(on_node) <= set(job.candidates)):
            yield f"{job.id} is placed on nodes it may not use"
        if not job.preemptible and reserve.queue_usage is not QueueUsage.GUARANTEED:
            yield f"{job.id} may use guaranteed GPUs only and borrows"
        if (job.eligible_s or 0) > snapshot.now_s or job.blocked is not None:
            yield f"{job.id} may not start yet"
        for place in reserve.places:
            yield from _one_place(job, place, gpus.get(place.gpu))


def _capped(snapshot: SliceSnapshot, made: SlicePlan, jobs: Mapping[str, SliceJob]) -> Iterator[str]:
    """No more jobs of a cap than it lets, and nobody waits for one that has room."""
    started = {reserve.job for reserve in made.reserve}
    taken: Counter[str] = Counter()
    for job in snapshot.jobs:
        if job.state in HOLDING - {JobState.COMPLETING} or (job.state is JobState.PENDING and job.places):
            taken.update(cap.name for cap in job.caps)
    promised = {hold.job for hold in made.hold if hold.promised} | {evict.beneficiary for evict in made.evict}
    for job_id in sorted(started | promised):
        job = jobs.get(job_id)
        if job is None or job.state is not JobState.PENDING or job.places:
            continue
        for cap in job.caps:
            taken[cap.name] += 1
            if taken[cap.name] > cap.most:
                yield f"{job_id} is one of {taken[cap.name]} under cap {cap.name} of {cap.most}"
    other = {Reason.ARRAY_MAX, Reason.SLURM_LIMIT}
    for job_id, reason in made.reasons.items():
        if reason not in other | {Reason.NOT_ELIGIBLE, Reason.UNKNOWN_QUEUE} and job_id not in promised:
            taken.update(cap.name for cap in jobs[job_id].caps)
    for job_id, reason in made.reasons.items():
        if reason in other and all(taken[cap.name] < cap.most for cap in jobs[job_id].caps):
            yield f"{job_id} waits for a cap that has room"


def _one_place(job: SliceJob, place: SlicePlace, gpu: SlicedGpu | None) -> Iterator[str]:
    need = job.need
    if gpu is None or gpu.node != place.node or gpu.leaving:
        yield f"{job.id} is placed on {place.gpu}, which is not there"
        return
    if job.types and gpu.gpu_type not in job.types:
        yield f"{job.id} is placed on a {gpu.gpu_type}"
    if place.profile is not None:
        profile = _profile(gpu, place.profile)
        if gpu.use is not GpuUse.MIG or profile is None or place.start not in profile.starts:
            yield f"{job.id} gets {place.profile} at {place.start} of {gpu.uuid}, which is not legal"
            return
        if need.profile not in {None, place.profile} or need.share_pct is not None:
            yield f"{job.id} gets {place.profile}, not {need}"
        if need.profile is None and (not profile.automatic or profile.memory_mib < (need.memory_mib or 0)):
            yield f"{job.id} gets {place.profile}, which is not what it needs"
        if need.profile is None and gpu.sm and profile.sm * 100 < (need.compute_pct or 0) * gpu.sm:
            yield f"{job.id} gets {place.profile}, which has not the SMs it needs"
    else:
        percent = need.share_pct if need.share_pct is not None else need.compute_pct
        enough = (place.share_pct or 0) >= (percent or 1) and (place.memory_mib or 0) >= (need.memory_mib or 0)
        if gpu.use is not GpuUse.SHARED or need.profile is not None or not enough:
            yield f"{job.id} gets a share {place} of a GPU in {gpu.use} use"


def _profile(gpu: SlicedGpu, name: str) -> Profile | None:
    return None if gpu.geometry is None else gpu.geometry.profile(name)


def _units(gpu: SlicedGpu, name: str, start: int) -> set[int]:
    profile = _profile(gpu, name)
    return set(range(start, start + profile.memory_units)) if profile is not None else set()


def _cards(snapshot: SliceSnapshot, made: SlicePlan, gpus: Mapping[str, SlicedGpu]) -> Iterator[str]:
    """No unit twice, no compute slice twice, warm ones that stay included."""
    freed = {(free.gpu, free.profile, free.start) for free in made.free_warm}
    known = {
        (gpu.uuid, one.profile, one.start)
        for gpu in snapshot.gpus
        for one in gpu.instances
        if one.state is InstanceState.WARM
    }
    if not freed <= known:
        yield f"{sorted(freed - known)} are destroyed and are not warm"
    reserved: dict[str, list[SlicePlace]] = {}
    for job in snapshot.jobs:
        for place in job.places:
            reserved.setdefault(place.gpu, []).append(place)
    new: dict[str, list[SlicePlace]] = {}
    for reserve in made.reserve:
        for place in reserve.places:
            new.setdefault(place.gpu, []).append(place)
    for uuid, places in new.items():
        gpu = gpus.get(uuid)
        if gpu is None:
            continue
        yield from _mig_card(gpu, reserved.get(uuid, []), places, freed)
        yield from _shared_card(gpu, snapshot, reserved.get(uuid, []), places)


def _mig_card(
    gpu: SlicedGpu, before: list[SlicePlace], new: list[SlicePlace], freed: set[tuple[str, str, int]]
) -> Iterator[str]:
    taken = {(one.profile, one.start) for one in gpu.instances if one.state in HELD}
    taken |= {(place.profile, place.start or 0) for place in before if place.profile is not None}
    added = [(place.profile, place.start or 0) for place in new if place.profile is not None]
    if not added:
        return
    warm = {
        (one.profile, one.start)
        for one in gpu.instances
        if one.state is InstanceState.WARM
        and (gpu.uuid, one.profile, one.start) not in freed
        and (one.profile, one.start) not in added
    }
    seen: set[int] = set()
    compute = 0
    count: Counter[str] = Counter()
    for name, start in [*sorted(taken), *added, *sorted(warm)]:
        profile = _profile(gpu, name)
        if profile is None:
            yield f"{gpu.uuid} has {name}, which nobody knows, and is cut further"
            return
        units = _units(gpu, name, start)
        if units & seen:
            yield f"{name} at {start} of {gpu.uuid} overlaps another instance"
        seen |= units
        compute += profile.compute_slices
        count[name] += 1
        if count[name] > profile.most:
            yield f"{count[name]} x {name} on {gpu.uuid}"
    if gpu.geometry is not None and compute > gpu.geometry.compute_slices:
        yield f"{compute} compute slices on {gpu.uuid}"


def _shared_card(
    gpu: SlicedGpu, snapshot: SliceSnapshot, before: list[SlicePlace], new: list[SlicePlace]
) -> Iterator[str]:
    if all(place.profile is not None for place in new):
        return
    shown = {share.job for share in gpu.shares}
    mine = {job.id: [p for p in job.places if p.gpu == gpu.uuid and p.profile is None] for job in snapshot.jobs}
    more = [place for job, places in mine.items() if job not in shown for place in places]
    del before
    percent = sum(s.percent for s in gpu.shares) + sum(p.share_pct or 0 for p in [*more, *new])
    memory = sum(s.memory_mib for s in gpu.shares) + sum(p.memory_mib or 0 for p in [*more, *new])
    if percent > 100 or memory > gpu.memory_mib:  # noqa: PLR2004
        yield f"shares of {gpu.uuid} add up to {percent} % and {memory} MiB"


def _beside(snapshot: SliceSnapshot, made: SlicePlan, jobs: Mapping[str, SliceJob]) -> Iterator[str]:
    cpus: Counter[str] = Counter()
    memory: Counter[str] = Counter()
    for reserve in made.reserve:
        for node in {place.node for place in reserve.places}:
            cpus[node] += jobs[reserve.job].cpus
            memory[node] += jobs[reserve.job].memory_per_node_mib
    for node in snapshot.nodes:
        if node.free_cpus is not None and cpus[node.name] > node.free_cpus:
            yield f"{cpus[node.name]} CPUs of {node.name} are given away"
        if node.free_memory_mib is not None and memory[node.name] > node.free_memory_mib:
            yield f"{memory[node.name]} MiB of {node.name} are given away"


def share_milli(gpu: SlicedGpu, place: SlicePlace) -> float:
    """What a place counts, in thousandths of a GPU: the larger of its compute and its memory share."""
    if place.profile is None:
        return max((place.share_pct or 0) * 10.0, 1000.0 * (place.memory_mib or 0) / (gpu.memory_mib or 1))
    profile = _profile(gpu, place.profile)
    if profile is None or gpu.geometry is None:
        return 0.0
    compute = profile.compute_slices / gpu.geometry.compute_slices
    return 1000.0 * max(compute, profile.memory_units / gpu.geometry.memory_units)


def _limits(snapshot: SliceSnapshot, made: SlicePlan, gpus: Mapping[str, SlicedGpu]) -> Iterator[str]:
    used: Counter[tuple[str, str]] = Counter()
    grown: set[tuple[str, str]] = set()

    def add(job: SliceJob, places: tuple[SlicePlace, ...], *, new: bool) -> None:
        milli = sum(share_milli(gpus[place.gpu], place) for place in places if place.gpu in gpus)
        parts = job.queue.split("/")
        for length in range(1, len(parts) + 1):
            for who in {"", job.user}:
                key = "/".join(parts[:length]), who
                used[key] += milli  # pyright: ignore[reportArgumentType]  a sum of parts
                if new:
                    grown.add(key)

    by_id = {job.id: job for job in snapshot.jobs}
    for job in snapshot.jobs:
        add(job, job.places, new=False)
    for reserve in made.reserve:
        add(by_id[reserve.job], reserve.places, new=True)
    for job in snapshot.whole:
        if job.state in HOLDING:
            parts = job.queue.split("/")
            for length in range(1, len(parts) + 1):
                for who in {"", job.user}:
                    used["/".join(parts[:length]), who] += 1000 * job.placed_gpus
    for queue in snapshot.queues:
        key = queue.path, ""
        if queue.max is not None and key in grown and used[key] > 1000 * queue.max + 0.01:
            yield f"queue {queue.path} uses {used[key]} of {queue.max} GPUs"
        for path, user in grown:
            most = queue.users[user].max if user in queue.users else queue.each_user_max
            if path == queue.path and user and most is not None and used[path, user] > 1000 * most + 0.01:
                yield f"user {user} uses {used[path, user]} of {most} GPUs in {path}"


def _uses(snapshot: SliceSnapshot, made: SlicePlan, gpus: Mapping[str, SlicedGpu]) -> Iterator[str]:
    busy = {place.gpu for reserve in made.reserve for place in reserve.places}
    busy |= {place.gpu for job in snapshot.jobs for place in job.places}
    busy |= {place.gpu for hold in made.hold for place in hold.places}
    busy |= {gpu.uuid for gpu in snapshot.gpus if gpu.shares or any(one.state in HELD for one in gpu.instances)}
    for given in made.return_gpu:
        if given.gpu in busy:
            yield f"{given.gpu} is given back and is not empty"
        if gpus[given.gpu].use not in {GpuUse.MIG, GpuUse.SHARED} or gpus[given.gpu].leaving:
            yield f"{given.gpu} is given back and was not held"
    new: Counter[tuple[str, str]] = Counter()
    for take in made.take_gpu:
        if take.gpu:
            if take.gpu in busy:
                yield f"{take.gpu} changes its use and is not empty"
            if gpus[take.gpu].use is take.use:
                yield f"{take.gpu} is in {take.use} use already"
        else:
            new[take.node, take.gpu_type] += 1
    free = Counter({(node.name, kind): count for node in snapshot.nodes for kind, count in node.idle_gpus.items()})
    kinds = {gpu.node: gpu.gpu_type for gpu in snapshot.gpus}
    evicted = {evict.job for evict in made.evict}
    for job in snapshot.whole:
        for part in job.placement if job.id in evicted else ():
            free[part.node, kinds[part.node]] += part.gpus
    for key, count in new.items():
        if count > free[key]:
            yield f"{count} GPUs of {key} are taken, {free[key]} are idle or given back"
    shut = {node.name for node in snapshot.nodes if node.shut}
    if shut & {node for node, _ in new}:
        yield f"GPUs of {sorted(shut)} are taken, which is not possible now"
    sliced = Counter(gpu.gpu_type for gpu in snapshot.gpus if gpu.use in {GpuUse.MIG, GpuUse.SHARED})
    sliced += Counter(take.gpu_type for take in snapshot.taking if not take.gpu)
    rules = {pool.gpu_type: pool for pool in snapshot.settings.pools}
    for gpu_type in {gpu.gpu_type for gpu in snapshot.gpus}:
        rule = rules.get(gpu_type) or rules.get(None)
        more = sum(count for (_, kind), count in new.items() if kind == gpu_type)
        if rule is not None and rule.maximum is not None and more and sliced[gpu_type] + more > rule.maximum:
            yield f"{sliced[gpu_type] + more} GPUs of type {gpu_type} are sliced, at most {rule.maximum} may be"


def _disturbed(snapshot: SliceSnapshot, made: SlicePlan, jobs: Mapping[str, SliceJob]) -> Iterator[str]:
    whole = {job.id: job for job in snapshot.whole}
    if len({evict.job for evict in made.evict}) < len(made.evict):
        yield "a job is evicted twice"
    for evict in made.evict:
        victim = jobs.get(evict.job) or whole[evict.job]
        if victim.state is not JobState.RUNNING or not victim.preemptible or not victim.requeue:
            yield f"{victim.id} is evicted and may not be"
        if victim.evicting_for is not None:
            yield f"{victim.id} is evicted twice"
        if victim.queue == next(job.queue for job in (*snapshot.jobs, *snapshot.whole) if job.id == evict.beneficiary):
            yield f"{victim.id} is evicted for a job of its own queue"
    for move in made.move:
        mover = jobs[move.job]
        if mover.state is not JobState.RUNNING or not mover.movable or not mover.requeue:
            yield f"{mover.id} is moved and did not consent"
        if move.cost_gpu_s >= move.gain_gpu_s * len(made.move):
            yield f"{mover.id} is moved for nothing"
    if len(made.move) > snapshot.settings.most_moves:
        yield f"{len(made.move)} moves"
    taken: dict[tuple[str, int], str] = {}
    by_uuid = {gpu.uuid: gpu for gpu in snapshot.gpus}
    owners = [(reserve.job, reserve.places) for reserve in made.reserve]
    owners += [(hold.job, hold.places) for hold in made.hold if hold.promised]
    for owner, places in owners:
        for place in places:
            for unit in _units(by_uuid[place.gpu], place.profile or "", place.start or 0):
                other = taken.setdefault((place.gpu, unit), owner)
                if other != owner:
                    yield f"unit {unit} of {place.gpu} is kept for {other} and {owner}"


def instances_of(snapshot: SliceSnapshot) -> Iterator[tuple[SlicedGpu, Instance]]:
    """All instances with their GPU."""
    return ((gpu, one) for gpu in snapshot.gpus for one in gpu.instances)
