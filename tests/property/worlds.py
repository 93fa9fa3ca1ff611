"""Random clusters: hierarchical queues, gangs, elastic jobs, GPU types, nodes out of use."""

from __future__ import annotations

from hypothesis import strategies as st

from slurmext.model.job import Cap, CapKind, Job, JobState, NodeGpus
from slurmext.model.node import Node, NodeState
from slurmext.model.queue import FenceMode, IdleAction, IdleRule, PreDrain, Queue, QuotaChange, TypeQuota, UserLimit
from slurmext.model.snapshot import Defragment, Settings, Snapshot

NOW_S = 10_000
GROUPS = {"ann": ("lab",), "ben": ("lab", "ops"), "cem": ()}
IDLE_RULES = [
    IdleRule(after_s=500, grace_s=40),
    IdleRule(after_s=0, grace_s=100_000),
    IdleRule(after_s=500, action=IdleAction.BORROWED),
]
CAPS = [
    *[()] * 7,
    (Cap(name="12", most=2),),
    (Cap(name="limit", most=1, kind=CapKind.SLURM),),
    (Cap(name="12", most=2), Cap(name="limit", most=1, kind=CapKind.SLURM)),
]
LEAVES = ("a", "b/x", "b/y", "c/x/p", "c/x/q", "c/y")


@st.composite
def snapshots(draw: st.DrawFn, *, plain: bool = False) -> Snapshot:
    """A consistent snapshot: no node holds more than it has. `plain` leaves out every rule but guaranteed and max."""
    nodes = draw(_nodes(plain))
    queues = draw(_queues(nodes, plain))
    settings = Settings(fences_stand=draw(st.booleans()))
    if not plain:
        settings = Settings(
            preemption_budget=draw(st.sampled_from([None, None, 0, 1, 2])),
            near_end_s=draw(st.sampled_from([0, 0, 300])),
            consolidate=draw(st.booleans()),
            fences_stand=draw(st.booleans()),
            headroom_gpus=draw(st.sampled_from([0, 0, 0, 2, 6])),
            headroom_drainable=draw(st.booleans()),
        )
    jobs = draw(_jobs(nodes, plain))
    removed = {} if plain else draw(st.sampled_from([{}, {}, {"nowhere": NOW_S}, {"nowhere": NOW_S + 100_000}]))
    wish = None if plain else draw(st.sampled_from([None, None, Defragment(worth_s=2000), Defragment(most_moves=2)]))
    return Snapshot(
        now_s=NOW_S, settings=settings, nodes=nodes, queues=queues, jobs=jobs, removed=removed, defragment=wish
    )


@st.composite
def _nodes(draw: st.DrawFn, plain: bool) -> tuple[Node, ...]:
    types = ["h100"] if plain else draw(st.sampled_from([["h100"], ["h100", "a100"]]))
    states = [NodeState.UP] if plain else [NodeState.UP] * 8 + [NodeState.DRAIN, NodeState.DOWN, NodeState.UNKNOWN]
    return tuple(
        Node(
            name=f"n{number}",
            gpus=draw(st.sampled_from([8, 8, 4, 2])),
            gpu_type=draw(st.sampled_from(types)),
            state=draw(st.sampled_from(states)),
        )
        for number in range(draw(st.integers(1, 5)))
    )


@st.composite
def _queues(draw: st.DrawFn, nodes: tuple[Node, ...], plain: bool) -> tuple[Queue, ...]:
    left = sum(node.gpus for node in nodes)
    given: dict[str, int] = {}
    for leaf in LEAVES:
        given[leaf] = min(left, draw(st.integers(0, max(1, left // 2))))
        left -= given[leaf]
    queues: list[Queue] = []
    for path in ("a", "b", "b/x", "b/y", "c", "c/x", "c/x/p", "c/x/q", "c/y"):
        below = sum(gpus for leaf, gpus in given.items() if leaf == path or leaf.startswith(path + "/"))
        stated: int | None = below
        if path not in LEAVES:
            extra = draw(st.integers(0, left)) if draw(st.booleans()) else 0
            stated = None if draw(st.booleans()) and not extra else below
            if path == "b" and extra:
                stated, left = below + extra, left - extra
        queues.append(draw(_queue(path, below if stated is None else stated, stated, plain)))
    return tuple(draw(st.permutations(queues)))


@st.composite
def _queue(draw: st.DrawFn, path: str, gpus: int, stated: int | None, plain: bool) -> Queue:
    most = draw(st.sampled_from([None, None, gpus, gpus + 2, gpus + 6]))
    if plain:
        return Queue(path=path, guaranteed=stated, max=most)
    typed = draw(st.integers(0, 9)) == 0 and stated is not None
    return Queue(
        path=path,
        guaranteed=stated,
        max=most,
        reserved=draw(st.integers(0, gpus)) if draw(st.integers(0, 4)) == 0 else 0,
        weight=draw(st.sampled_from([0, 1, 1, 2.5])),
        priority=draw(st.sampled_from([0, 0, 0, 1])),
        lending_limit=draw(st.sampled_from([None, None, None, None, 0, 2])),
        fence=draw(st.sampled_from([FenceMode.NONE] * 6 + [FenceMode.IN, FenceMode.OUT, FenceMode.BOTH])),
        min_runtime_s=draw(st.sampled_from([0, 0, 0, 500])),
        preemption_delay_s=draw(st.sampled_from([0, 0, 0, 200])),
        job_sort=draw(st.sampled_from(["priority,fifo", "fifo", "fair,fifo", "priority,fair,fifo"])),
        by_type={"h100": TypeQuota(guaranteed=draw(st.integers(0, gpus)), max=None)}
        if typed and path in LEAVES
        else {},
        changes=draw(_changes(path, gpus, most)) if draw(st.integers(0, 3)) == 0 else (),
        pre_drain=draw(st.sampled_from([PreDrain.REFUSE, PreDrain.REFUSE, PreDrain.TELL])),
        cut_s=draw(st.sampled_from([None, None, None, NOW_S - 50, NOW_S, NOW_S + 100_000]))
        if most is not None
        else None,
        users={"ann": UserLimit(max=draw(st.integers(0, 8)))} if draw(st.integers(0, 5)) == 0 else {},
        groups={
            group: UserLimit(max=draw(st.integers(0, 12))) for group in ("lab", "ops") if draw(st.integers(0, 7)) == 0
        },
        each_user_max=draw(st.sampled_from([None] * 6 + [2, 8])),
        idle=draw(st.sampled_from([None] * 3 + IDLE_RULES)),
        shares_guarantee=not stated and not typed and path in LEAVES and draw(st.booleans()),
    )


@st.composite
def _changes(draw: st.DrawFn, path: str, gpus: int, most: int | None) -> tuple[QuotaChange, ...]:
    """Changes of a calendar, the last ones farther off than any job's limit. Parents without numbers stay so."""
    times = sorted(draw(st.sets(st.sampled_from([NOW_S + 50, NOW_S + 900, NOW_S + 5000, NOW_S + 30_000]), max_size=3)))
    found: list[QuotaChange] = []
    for at_s in times:
        given = draw(st.integers(0, gpus + 2)) if path in LEAVES else None
        limit = draw(st.sampled_from([most, None, given, (given or 0) + 3]))
        found.append(QuotaChange(at_s=at_s, guaranteed=given, max=limit))
    return tuple(found)


@st.composite
def _jobs(draw: st.DrawFn, nodes: tuple[Node, ...], plain: bool) -> tuple[Job, ...]:
    free = {node.name: node.gpus for node in nodes}
    jobs: list[Job] = []
    for number in range(draw(st.integers(0, 14))):
        job = draw(_shape(f"r{number}", plain))
        placement: list[NodeGpus] = []
        tasks = draw(st.integers(job.least_tasks, job.tasks))
        for node in draw(st.permutations(nodes)):
            count = min(tasks, free[node.name] // job.gpus_per_task)
            if count:
                placement.append(NodeGpus(node=node.name, gpus=count * job.gpus_per_task))
                tasks -= count
        if tasks:
            continue
        for part in placement:
            free[part.node] -= part.gpus
        state = JobState.RUNNING if plain else draw(st.sampled_from(RUNNING))
        jobs.append(_replace(draw, job, state, tuple(placement), idles=not plain and draw(st.integers(0, 2)) == 0))
    jobs += [draw(_shape(f"p{number}", plain)) for number in range(draw(st.integers(0, 10)))]
    return tuple(draw(st.permutations(jobs)))


RUNNING = [JobState.RUNNING] * 9 + [JobState.COMPLETING, JobState.SUSPENDED, JobState.UNKNOWN]


def _replace(draw: st.DrawFn, job: Job, state: JobState, placement: tuple[NodeGpus, ...], *, idles: bool) -> Job:
    from dataclasses import replace

    return replace(
        job,
        state=state,
        placement=placement,
        started_s=draw(st.sampled_from([None, 0, 5000, 9000, 9900])),
        time_limit_s=draw(st.sampled_from([None, None, 1000, 5100, 20000])),
        checkpoint_s=draw(st.sampled_from([None, None, 4000, 9500])),
        idle_since_s=draw(st.sampled_from([100, NOW_S - 550, NOW_S - 10])) if idles else None,
        keep_until_s=draw(st.sampled_from([None, None, NOW_S - 20, NOW_S + 500])) if idles else None,
    )


@st.composite
def _shape(draw: st.DrawFn, job_id: str, plain: bool) -> Job:
    tasks = draw(st.sampled_from([1, 1, 1, 2, 3, 4, 8]))
    user = draw(st.sampled_from(["ann", "ben", "cem"]))
    return Job(
        id=job_id,
        queue=draw(st.sampled_from(LEAVES if plain else (*LEAVES, "b", "c/x", "nowhere"))),
        state=JobState.PENDING,
        user=user,
        groups=() if plain else GROUPS[user],
        gpus_per_task=draw(st.sampled_from([1, 1, 1, 2, 4, 8])),
        tasks=tasks,
        min_tasks=draw(st.sampled_from([None, None, None, 1, max(1, tasks // 2)])),
        tasks_per_node=None if plain else draw(st.sampled_from([None, None, None, 1, 2])),
        priority=draw(st.sampled_from([0, 0, 5])),
        preemptible=True if plain else draw(st.integers(0, 6)) != 0,
        requeue=True if plain else draw(st.integers(0, 8)) != 0,
        types=() if plain else draw(st.sampled_from([(), (), ("h100",), ("a100", "h100"), ("b200",)])),
        submitted_s=draw(st.sampled_from([0, 100, 9900])),
        preempted=draw(st.sampled_from([0, 0, 0, 1])),
        caps=() if plain else draw(st.sampled_from(CAPS)),
    )
