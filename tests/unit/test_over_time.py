"""Laws over time: small histories, each of which breaks one of them, and its twin that does not."""

from __future__ import annotations

from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.plan import Plan, QueueUsage, Reason, Release
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Settings, Snapshot
from slurmext.policy.invariants.over_time import Departure, Look, OverTime

NODES = (Node(name="n1", gpus=8), Node(name="n2", gpus=8))
QUEUES = (Queue(path="prod", guaranteed=8), Queue(path="research", guaranteed=8, max=12))
WHOLE_N1, WHOLE_N2 = (NodeGpus(node="n1", gpus=8),), (NodeGpus(node="n2", gpus=8),)
VICTIM = Departure(job="v", started_s=0, beneficiary="p")


def pending(job_id: str = "p", **more: object) -> Job:
    return Job(id=job_id, queue="prod", state=JobState.PENDING, gpus_per_task=8, **more)  # type: ignore[arg-type]


def running(job_id: str = "v", started_s: float = 0, **more: object) -> Job:
    values = {"queue": "research", "placement": WHOLE_N1, "gpus_per_task": 8, **more}
    return Job(id=job_id, state=JobState.RUNNING, started_s=started_s, **values)  # type: ignore[arg-type]


def look(
    now_s: float, *jobs: Job, told: tuple[Departure, ...] = (), released: tuple[Release, ...] = (), **more: object
) -> Look:
    """All running jobs really run, except those without a start; pending ones wait for GPUs being reclaimed."""
    free = {release.job for release in released}
    reasons = {job.id: Reason.RECLAIMING for job in jobs if job.state is JobState.PENDING and job.id not in free}
    values = {"settings": Settings(grace_s=10), "queues": QUEUES, **more}
    return Look(
        snapshot=Snapshot(now_s=now_s, nodes=NODES, jobs=jobs, **values),  # type: ignore[arg-type]
        plan=Plan(release=released, reasons=reasons),
        running={job.id: job.started_s for job in jobs if job.started_s is not None},
        told=told,
    )


def laws(*looks: Look) -> list[str]:
    """What was broken, in all."""
    monitor = OverTime()
    return [law for each in looks for law, _ in monitor.look(each)]


OTHER = running("o", placement=WHOLE_N2)
LATE, ALONE, AGAIN = (
    "guaranteed demand starts in time", "every beneficiary did start", "nobody leaves twice for the same job",
)  # fmt: skip


def test_a_reclaim_within_the_grace_breaks_nothing() -> None:
    """The victim leaves, the beneficiary is released and starts 14 s after it was first seen."""
    released = (Release(job="p", placement=WHOLE_N1, queue_usage=QueueUsage.GUARANTEED),)
    assert not laws(
        look(100, running(), OTHER),
        look(100, running(), OTHER, pending(submitted_s=100), told=(VICTIM,)),
        look(110, running(evicting_for="p"), OTHER, pending(submitted_s=100), told=(VICTIM,)),
        look(112, OTHER, pending(submitted_s=100), released=released),
        look(113, OTHER, running("p", started_s=None, queue="prod", submitted_s=100)),  # type: ignore[arg-type]
        look(200, OTHER, running("p", started_s=114, queue="prod", submitted_s=100)),
    )


def test_guaranteed_demand_that_waits_too_long_is_told_once() -> None:
    """Grace 10 s and 5 s: at 115 s all is well, at 116 s it is late, and later nothing new."""
    waits = [look(100 + s, running(evicting_for="p"), OTHER, pending(submitted_s=100)) for s in (0, 15, 16, 30)]
    assert not laws(*waits[:2])
    assert laws(*waits) == [LATE]


def test_a_late_start_shows_also_when_nobody_looked_meanwhile() -> None:
    """The start Slurm tells is what counts, not when it was seen."""
    first = look(100, running(evicting_for="p"), OTHER, pending(submitted_s=100))
    late, soon = (look(300, OTHER, running("p", started_s=start, queue="prod")) for start in (120, 112))
    assert laws(first, late) == [LATE]
    assert not laws(first, soon)


def test_demand_is_not_late_before_its_preemption_delay() -> None:
    """A queue that promised to wait 60 s before it takes anything back has that long more."""
    queues = (Queue(path="prod", guaranteed=8, preemption_delay_s=60), QUEUES[1])
    waits = [look(s, running(), OTHER, pending(submitted_s=100), queues=queues) for s in (101, 170, 176)]
    assert not laws(*waits[:2])
    assert laws(*waits) == [LATE]


def test_demand_beyond_the_guarantee_may_wait() -> None:
    """Prod runs its 8; what it wants more is no guaranteed demand."""
    mine = running("a", queue="prod", placement=WHOLE_N2)
    assert not laws(*(look(s, running(), mine, pending(submitted_s=100)) for s in (100, 200, 300)))


def test_a_new_limit_starts_promises_anew() -> None:
    """Whoever waits since before the policy changed is not late by the old one."""
    queues = (Queue(path="prod", guaranteed=8), Queue(path="research", guaranteed=4, max=12))
    before = look(100, running(), OTHER, pending(submitted_s=100))
    after = [look(s, running(), OTHER, pending(submitted_s=100), queues=queues) for s in (116, 120)]
    assert not laws(before, *after)


def test_more_than_a_node_has_is_overcommitted() -> None:
    """Two whole-node jobs run on one node."""
    assert laws(look(0, running("a"), running("b"))) == ["no overcommit in reality"]
    assert not laws(look(0, running("a"), running("b", started_s=None)))  # type: ignore[arg-type]


def test_nobody_is_let_over_the_max() -> None:
    """Research has a max of 12: a second job of 8 that we released is over it; one that Slurm let in is not ours."""
    new = Job(id="b", queue="research", state=JobState.PENDING, gpus_per_task=8)
    before = look(10, running("a"), new)
    let = look(10, running("a"), new, released=(Release(job="b", placement=WHOLE_N2, queue_usage=QueueUsage.BORROWED),))
    after = look(20, running("a"), running("b", placement=WHOLE_N2, started_s=15))
    assert laws(let, after) == ["never above max in reality"]
    assert not laws(before, after)


def test_a_victim_that_returns_and_leaves_for_the_same_job_again_is_a_livelock() -> None:
    """Its second run ends for the job that its first one ended for."""
    again = Departure(job="v", started_s=105, beneficiary="p")
    back = (running(started_s=105, evicting_for="p"), OTHER, pending(submitted_s=100))
    first = look(100, running(), OTHER, pending(submitted_s=100), told=(VICTIM,))
    assert laws(first, look(106, *back, told=(again,))) == [AGAIN]
    ran = look(104, OTHER, running("p", started_s=103, queue="prod"))
    assert not laws(first, ran, look(106, *back, told=(again,)))


def test_a_victim_that_left_for_nothing_is_told_of() -> None:
    """The victim is gone since 101 s, and who it left for still waits at 117 s."""
    told = look(100, running(), OTHER, pending(submitted_s=100), told=(VICTIM,))
    there = look(101, running(), OTHER, pending(submitted_s=100), told=(VICTIM,))
    alone = [look(s, OTHER, pending(submitted_s=100)) for s in (102, 116, 117)]
    assert ALONE not in laws(told, there, *alone[:2])
    assert ALONE in laws(told, there, *alone)
    gone = look(110, OTHER)
    assert ALONE not in laws(told, there, gone, *alone)
