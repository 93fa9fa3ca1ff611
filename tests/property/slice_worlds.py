"""Worlds of slices made by Hypothesis: cards of several kinds, some in use, and jobs of every sort."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from slurmext.model.job import Cap, CapKind, Job, JobState, NodeGpus
from slurmext.model.node import NodeState
from slurmext.model.queue import Queue
from slurmext.model.slicing import (
    Geometry,
    GpuUse,
    Instance,
    InstanceState,
    Profile,
    SlicedGpu,
    SliceJob,
    SliceNeed,
    SliceNode,
    SlicePlace,
    SlicePool,
    SliceSettings,
    SliceSnapshot,
    TakeGpu,
)
from slurmext.testing.nvml.cards import card_of
from slurmext.testing.slice_world import show
from slurmext.testing.slicing import geometry_of, gpus

NOW_S = 10_000
QUEUES = ("org/a", "org/b", "c")
USERS = ("ann", "bob")
TYPES = ("h100", "a30", "rtx_pro_6000", "l40s")


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Cards nobody ever built: any starts, any sizes."""
    units, slices = draw(st.integers(1, 9)), draw(st.integers(1, 7))
    profiles: list[Profile] = []
    for number in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, units))
        starts = draw(st.sets(st.integers(0, units - size), min_size=1))
        profiles.append(
            Profile(
                name=f"p{number}",
                profile_id=number,
                memory_units=size,
                compute_slices=draw(st.integers(1, slices)),
                memory_mib=1000 * size,
                sm=0,
                starts=tuple(sorted(starts)),
                most=draw(st.integers(1, units)),
            )
        )
    return Geometry(memory_units=units, compute_slices=slices, profiles=tuple(profiles))


def _needs(kinds: list[str]) -> st.SearchStrategy[SliceNeed]:
    """Mostly what some card of the world has."""
    known = [
        profile.name for kind in kinds if (cut := geometry_of(card_of(kind))) is not None for profile in cut.profiles
    ]
    names = st.sampled_from([*(known * 4), "1g.10gb", "9g.9gb"])
    per_node, nodes = st.sampled_from([1, 1, 1, 1, 2, 3]), st.sampled_from([1, 1, 1, 1, 2])
    return st.one_of(
        st.builds(SliceNeed, profile=names, per_node=per_node, nodes=nodes),
        st.builds(SliceNeed, profile=names),
        st.builds(
            SliceNeed,
            share_pct=st.sampled_from([10, 25, 40, 60, 100]),
            memory_mib=st.sampled_from([None, 1000, 12_000, 40_000]),
            per_node=per_node,
            nodes=nodes,
        ),
        st.builds(
            SliceNeed,
            memory_mib=st.sampled_from([None, 4000, 18_432]),
            compute_pct=st.sampled_from([None, 10, 30, 60]),
            per_node=per_node,
        ),
    )


@st.composite
def _cards(draw: st.DrawFn, node: str, kinds: list[str]) -> list[SlicedGpu]:
    count = draw(st.integers(1, 3))
    gpu_type = draw(st.sampled_from(kinds))
    use = st.sampled_from([*[GpuUse.MIG] * 5, GpuUse.SHARED, GpuUse.SHARED, *[GpuUse.WHOLE] * 3, GpuUse.UNKNOWN])
    return [
        replace(
            gpu,
            use=draw(use),
            since_s=draw(st.sampled_from([0, NOW_S - 10])),
            leaving=draw(st.sampled_from([*[False] * 9, True])),
        )
        for gpu in gpus(node, gpu_type, count)
    ]


def fits(geometry: Geometry, there: list[tuple[str, int]]) -> bool:
    """Whether NVML would have made these instances one after the other."""
    seen: set[int] = set()
    compute = 0
    for name, start in there:
        profile = geometry.profile(name)
        if profile is None or start not in profile.starts:
            return False
        units = set(range(start, start + profile.memory_units))
        if units & seen or max(units) >= geometry.memory_units:
            return False
        seen |= units
        compute += profile.compute_slices
        if [other for other, _ in there].count(name) > profile.most:
            return False
    return compute <= geometry.compute_slices and sum("+me" in name for name, _ in there) <= 1


CAPS = [
    *[()] * 5,
    (Cap(name="12", most=2),),
    (Cap(name="limit", most=1, kind=CapKind.SLURM),),
    (Cap(name="12", most=2), Cap(name="limit", most=1, kind=CapKind.SLURM)),
]


@st.composite
def _running(draw: st.DrawFn, cards: list[SlicedGpu]) -> list[SliceJob]:
    """Jobs that sit on the cards, legally."""
    found: list[SliceJob] = []
    for card in cards:
        there: list[tuple[str, int]] = []
        percent = memory = 0
        for _ in range(draw(st.integers(0, 4))):
            number = f"r{card.uuid}-{len(found)}"
            if card.use is GpuUse.MIG and card.geometry is not None:
                profile = draw(st.sampled_from(card.geometry.profiles))
                start = draw(st.sampled_from(profile.starts))
                if not fits(card.geometry, [*there, (profile.name, start)]):
                    continue
                there.append((profile.name, start))
                place = SlicePlace(node=card.node, gpu=card.uuid, profile=profile.name, start=start)
                need = SliceNeed(profile=profile.name)
            elif card.use is GpuUse.SHARED:
                size, mib = draw(st.sampled_from([10, 30, 50])), draw(st.sampled_from([500, 9000]))
                if percent + size > 100 or memory + mib > card.memory_mib:
                    continue
                percent, memory = percent + size, memory + mib
                place = SlicePlace(node=card.node, gpu=card.uuid, share_pct=size, memory_mib=mib)
                need = SliceNeed(share_pct=size, memory_mib=mib)
            else:
                continue
            found.append(draw(_running_job(number, need, place)))
    return found


@st.composite
def _running_job(draw: st.DrawFn, number: str, need: SliceNeed, place: SlicePlace) -> SliceJob:
    rare = [JobState.PENDING, JobState.COMPLETING, JobState.UNKNOWN]
    state = draw(st.sampled_from([*[JobState.RUNNING] * 9, *rare]))
    return SliceJob(
        id=number,
        queue=draw(st.sampled_from(QUEUES)),
        user=draw(st.sampled_from(USERS)),
        need=need,
        state=state,
        started_s=draw(st.sampled_from([None, 0, NOW_S - 50])),
        checkpoint_s=draw(st.sampled_from([None, NOW_S - 5, NOW_S - 5])),
        time_limit_s=draw(st.sampled_from([None, 20_000])),
        preemptible=draw(st.sampled_from([True, True, True, False])),
        requeue=draw(st.sampled_from([True, True, True, False])),
        movable=draw(st.sampled_from([True, True, False])),
        evicting_for=draw(st.sampled_from([*[None] * 9, "p0"])) if state is JobState.RUNNING else None,
        caps=draw(st.sampled_from(CAPS)),
        cpus=draw(st.integers(0, 4)),
        places=(place,),
    )


@st.composite
def _waiting(draw: st.DrawFn, number: int, kinds: list[str]) -> SliceJob:
    return SliceJob(
        id=f"p{number}",
        queue=draw(st.sampled_from([*QUEUES * 5, "gone"])),
        user=draw(st.sampled_from(USERS)),
        need=draw(_needs(kinds)),
        priority=draw(st.integers(0, 1)),
        submitted_s=draw(st.sampled_from([0, NOW_S - 1000, NOW_S - 10])),
        eligible_s=draw(st.sampled_from([*[None] * 14, NOW_S + 5])),
        caps=draw(st.sampled_from(CAPS)),
        preemptible=draw(st.sampled_from([True, True, True, False])),
        types=draw(st.sampled_from([*[()] * 8, ("h100",), ("a30", "h100")])),
        choice=draw(st.sampled_from([None, None, GpuUse.MIG, GpuUse.SHARED])),
        cpus=draw(st.integers(0, 6)),
        memory_per_node_mib=draw(st.sampled_from([0, 4096])),
    )


@st.composite
def slice_worlds(draw: st.DrawFn, *, most_waiting: int = 8) -> SliceSnapshot:
    """A snapshot whose cards and jobs agree."""
    names = [f"n{number}" for number in range(draw(st.integers(1, 4)))]
    kinds = draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=2))
    cards = [card for name in names for card in draw(_cards(name, kinds))]
    running = draw(_running(cards))
    waiting = [draw(_waiting(number, kinds)) for number in range(draw(st.integers(0, most_waiting)))]
    shown = show(cards, running)
    shown = [draw(_with_warm(card)) for card in shown]
    nodes = tuple(
        SliceNode(
            name=name,
            state=draw(st.sampled_from([*[NodeState.UP] * 11, NodeState.DRAIN])),
            free_cpus=draw(st.sampled_from([None, None, 4, 16])),
            free_memory_mib=draw(st.sampled_from([None, 8192])),
            idle_gpus=_idle(name, cards, draw(st.integers(0, 3))),
            shut=draw(st.sampled_from([*[False] * 9, True])),
        )
        for name in names
    )
    limits = draw(st.lists(st.sampled_from([None, None, None, 0, 1, 2, 3]), min_size=6, max_size=6))
    queues = (
        Queue(path="org", max=limits[0]),
        Queue(path="org/a", guaranteed=1 if limits[3] else 0, max=limits[1]),
        Queue(path="org/b", each_user_max=limits[4]),
        Queue(path="c", guaranteed=limits[5] or 0, reserved=0, max=None),
    )
    queues = tuple(
        replace(queue, guaranteed=min(queue.guaranteed or 0, queue.max)) if queue.max is not None else queue
        for queue in queues
    )
    pools = draw(st.sampled_from([(), (SlicePool(maximum=1),), (SlicePool(minimum=1),), (SlicePool(gpu_type="h100", maximum=2, minimum=1, use=GpuUse.SHARED),)]))  # fmt: skip
    takes = [TakeGpu(node=n.name, gpu_type=kind, use=GpuUse.MIG) for n in nodes for kind in n.idle_gpus][:1]
    running_whole = draw(_running_whole(cards, nodes))
    wants = Job(
        id="W",
        queue=draw(st.sampled_from(QUEUES)),
        state=JobState.PENDING,
        gpus_per_task=draw(st.sampled_from([1, 1, 2])),
        tasks=draw(st.sampled_from([1, 1, 2])),
        types=draw(st.sampled_from([(), ("h100",)])),
    )
    owed = draw(st.sampled_from([(), (), ("W",)]))
    return SliceSnapshot(
        now_s=NOW_S,
        settings=SliceSettings(pools=pools, prefer=draw(st.sampled_from([GpuUse.MIG, GpuUse.SHARED]))),
        nodes=nodes,
        gpus=tuple(shown),
        queues=queues,
        jobs=(*running, *waiting),
        whole=(*running_whole, wants),
        beside={job.id: (draw(st.integers(0, 6)), 4096) for job in running_whole},
        owed=owed,
        wanted_gpus=draw(st.sampled_from([{}, {"h100": 1}, {"": 2}])),
        taking=tuple(takes) if draw(st.booleans()) else (),
    )


@st.composite
def _running_whole(draw: st.DrawFn, cards: list[SlicedGpu], nodes: tuple[SliceNode, ...]) -> list[Job]:
    """Whole-GPU jobs on GPUs that are in whole use and not idle."""
    found: list[Job] = []
    for node in nodes:
        left = sum(card.node == node.name and card.use is GpuUse.WHOLE for card in cards)
        left -= sum(node.idle_gpus.values())
        while left > 0 and draw(st.booleans()):
            gpus = draw(st.integers(1, left))
            left -= gpus
            found.append(
                Job(
                    id=f"w{len(found)}",
                    queue=draw(st.sampled_from(QUEUES)),
                    state=draw(st.sampled_from([*[JobState.RUNNING] * 5, JobState.COMPLETING])),
                    user=draw(st.sampled_from(USERS)),
                    placement=(NodeGpus(node=node.name, gpus=gpus),),
                    started_s=draw(st.sampled_from([0, NOW_S - 50])),
                    preemptible=draw(st.sampled_from([True, True, True, False])),
                    requeue=draw(st.sampled_from([True, True, True, False])),
                    evicting_for=draw(st.sampled_from([*[None] * 9, "p0"])),
                )
            )
    return found


@st.composite
def _with_warm(draw: st.DrawFn, card: SlicedGpu) -> SlicedGpu:
    """Warm and foreign instances where there is room."""
    if card.use is not GpuUse.MIG or card.geometry is None:
        return card
    there = [(one.profile, one.start) for one in card.instances]
    more: list[Instance] = []
    for _ in range(draw(st.integers(0, 3))):
        profile = draw(st.sampled_from(card.geometry.profiles))
        start = draw(st.sampled_from(profile.starts))
        if fits(card.geometry, [*there, (profile.name, start)]):
            there.append((profile.name, start))
            state = draw(st.sampled_from([InstanceState.WARM, InstanceState.WARM, InstanceState.FOREIGN]))
            more.append(Instance(profile=profile.name, start=start, state=state, uuid=f"MIG-{start}"))
    return replace(card, instances=(*card.instances, *more))


def _idle(node: str, cards: list[SlicedGpu], most: int) -> dict[str, int]:
    whole = [card for card in cards if card.node == node and card.use is GpuUse.WHOLE]
    return {whole[0].gpu_type: min(most, len(whole))} if whole and most else {}
