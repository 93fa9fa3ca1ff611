"""Where waiting jobs with models are expected to start: whole GPUs, slices, and jobs that Slurm alone starts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.model.cluster import Annotation, JobRecord
from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node, NodeState
from slurmext.model.plan import Plan, QueueUsage, Release
from slurmext.model.slicing import (
    Geometry,
    GpuUse,
    HoldPlaces,
    Profile,
    SlicedGpu,
    SliceJob,
    SliceNeed,
    SliceNode,
    SlicePlace,
    SlicePlan,
    SliceSnapshot,
)
from slurmext.model.snapshot import Fence, Snapshot
from slurmext.policy.staging.likely import Forecast
from slurmext.policy.staging.likely_slices import likely_for_slices
from slurmext.service.staging import ahead as ahead_of
from slurmext.service.staging.ahead import Ahead, Decided

NODES = ("n1", "n2", "n3", "n4")


def busy(node: str, left_s: float, gpus: int = 2) -> Job:
    return Job(id=f"{node}-{left_s}", queue="q", state=JobState.RUNNING, started_s=0, time_limit_s=left_s,
               placement=(NodeGpus(node=node, gpus=gpus),))  # fmt: skip


def waiting(job_id: str = "1", **more: object) -> Job:
    values: dict[str, object] = {"gpus_per_task": 2, **more}
    return Job(id=job_id, queue="q", state=JobState.PENDING, **values)  # type: ignore[arg-type]


def cluster(*jobs: Job, fences: tuple[Fence, ...] = ()) -> Snapshot:
    return Snapshot(now_s=0, nodes=tuple(Node(name=name, gpus=2) for name in NODES), jobs=jobs, fences=fences)


def likely(job: Job, snapshot: Snapshot, *, planned: tuple[str, ...] = (), warm: tuple[str, ...] = (),
           ahead_s: float = 3600) -> tuple[str, ...]:  # fmt: skip
    return Forecast(snapshot, ahead_s=ahead_s).likely(job, planned=planned, warm=warm)


def test_likely_nodes_are_those_kept_for_the_job_then_warm_ones_then_those_free_first() -> None:
    """Nothing is brought to nodes that nobody leaves for hours."""
    job = waiting(tasks=2)
    snapshot = cluster(job, busy("n1", 9000), busy("n2", 600), busy("n3", 60), busy("n4", 9000))
    assert likely(job, snapshot) == ("n3", "n2")
    assert likely(job, snapshot, warm=("n2",)) == ("n2", "n3")
    assert likely(job, snapshot, planned=("n4",)) == ("n4", "n3")
    assert likely(job, snapshot, ahead_s=100) == ("n3",)


def test_a_node_is_free_when_it_has_room_for_the_job_not_when_it_is_empty() -> None:
    """A job of one GPU may start beside another one that stays for hours."""
    snapshot = cluster(busy("n1", 9000), busy("n2", 9000, 1), busy("n3", 600), busy("n4", 9000))
    assert likely(waiting(gpus_per_task=1), snapshot) == ("n2",)
    assert likely(waiting(gpus_per_task=2), snapshot) == ("n3",)


def test_jobs_that_wait_do_not_all_expect_the_same_node() -> None:
    """What one is likely to get, the next one does not count on; nor on what is kept for somebody else."""
    first, second, third = (waiting(number, time_limit_s=500) for number in ("1", "2", "3"))
    snapshot = cluster(first, second, third, busy("n1", 100), busy("n2", 300), busy("n3", 700), busy("n4", 9000))
    forecast = Forecast(snapshot, ahead_s=3600)
    assert [forecast.likely(job, planned=(), warm=()) for job in (first, second, third)] == [("n1",), ("n2",), ("n1",)]
    other = waiting("other")
    kept = Fence(beneficiary="other", placement=(NodeGpus(node="n1", gpus=2),))
    assert likely(first, cluster(first, other, busy("n2", 300), busy("n3", 700), fences=(kept,))) == ("n4",)


def test_nodes_that_are_down_or_of_another_type_are_not_expected() -> None:
    """Nor is one with too few GPUs for a task."""
    nodes = (Node(name="a", gpus=8, gpu_type="h100", state=NodeState.DRAIN), Node(name="b", gpus=1, gpu_type="h100"),
             Node(name="c", gpus=8, gpu_type="l4"), Node(name="d", gpus=8, gpu_type="h100"))  # fmt: skip
    assert likely(waiting(types=("h100",)), Snapshot(now_s=0, nodes=nodes)) == ("d",)


# Slices.

CUT = Geometry(
    memory_units=8, compute_slices=7, profiles=(Profile(name="1g", memory_units=1, compute_slices=1, starts=(0,)),)
)


def card(node: str, use: GpuUse = GpuUse.MIG) -> SlicedGpu:
    return SlicedGpu(node=node, uuid=f"GPU-{node}", use=use, memory_mib=80_000, geometry=CUT)


def slice_job(job_id: str = "7", *, on: str = "", left_s: float | None = None, **more: object) -> SliceJob:
    places = (SlicePlace(node=on, gpu=f"GPU-{on}", profile="1g", start=0),) if on else ()
    state = JobState.RUNNING if left_s is not None else JobState.PENDING
    values: dict[str, object] = {"need": SliceNeed(profile="1g"), "places": places, "started_s": 0, **more}
    return SliceJob(id=job_id, queue="q", state=state, time_limit_s=left_s, **values)  # type: ignore[arg-type]


SLICES = SliceSnapshot(
    now_s=0, nodes=tuple(SliceNode(name=name) for name in NODES), gpus=(card("n1"), card("n2"), card("n3", GpuUse.WHOLE)),
    jobs=(slice_job("a", on="n1", left_s=700), slice_job("b", on="n1", left_s=9000), slice_job("c", on="n2", left_s=900)),
)  # fmt: skip


def test_a_job_of_slices_is_expected_where_its_slices_are_then_where_some_are_free_first() -> None:
    """Reserved, held, free first or warm; not where all GPUs are whole and busy, nor where its profile is not known."""

    def nodes(job: SliceJob, holds: tuple[HoldPlaces, ...] = (), warm: tuple[str, ...] = (), ahead_s: float = 3600,
              look: SliceSnapshot = SLICES) -> tuple[str, ...]:  # fmt: skip
        return likely_for_slices(job, look, holds, warm=warm, ahead_s=ahead_s)

    assert nodes(slice_job(on="n3")) == ("n3",)
    assert nodes(slice_job(), (HoldPlaces(job="7", places=slice_job(on="n2").places),)) == ("n2",)
    assert nodes(slice_job()) == ("n1",)
    assert nodes(slice_job(), warm=("n2",)) == ("n2",)
    assert nodes(slice_job(), ahead_s=60) == ()
    assert nodes(slice_job(need=SliceNeed(profile="1g", nodes=2))) == ("n1", "n2")
    assert nodes(slice_job(candidates=("n2",))) == ("n2",)
    assert nodes(slice_job(need=SliceNeed(profile="9g"))) == ()
    idle = replace(SLICES, nodes=(*SLICES.nodes[:2], SliceNode(name="n3", idle_gpus={"gpu": 1})))
    assert nodes(slice_job(), look=idle) == ("n3",)


# All of them.


def record(job_id: str, **more: object) -> JobRecord:
    values: dict[str, object] = {"state": JobState.PENDING, "uid": 1, "annotation": Annotation(preload=("m",)), **more}
    return JobRecord(slurm_id=job_id, **values)  # type: ignore[arg-type]


def starts(
    *records: JobRecord, decided: Decided, ahead: Ahead | None = None
) -> dict[str, tuple[tuple[str, ...], bool]]:
    found = (ahead or Ahead(ahead_s=3600)).starts(records, decided, lambda _record: ())
    return {start.record.slurm_id: (start.nodes, start.sure) for start in found}


def test_what_is_released_or_has_its_slices_starts_for_sure() -> None:
    """Also in the cycles until Slurm has started it. The nodes that a user named are those it gets."""
    release = Release(job="1", placement=(NodeGpus(node="n3", gpus=1),), queue_usage=QueueUsage.GUARANTEED)
    released = Job(id="2", queue="q", state=JobState.RUNNING, placement=(NodeGpus(node="n4", gpus=1),))
    decided = Decided(
        snapshot=cluster(waiting("1"), released), plan=Plan(release=(release,)), slices=(slice_job("3", on="n2"),),
        sliced=(SLICES, SlicePlan()),
    )  # fmt: skip
    assert starts(record("1"), record("2"), record("3"), decided=decided) == {
        "1": (("n3",), True), "2": (("n4",), True), "3": (("n2",), True),
    }  # fmt: skip
    assert starts(record("1", required_nodes="n[1-2]", nodes=2), decided=decided) == {"1": (("n1", "n2"), True)}


def test_what_waits_is_expected_by_who_starts_it() -> None:
    """By the queues, by the slices, or by Slurm: its backfill, or the nodes that the user named."""
    decided = Decided(
        snapshot=cluster(waiting("1", gpus_per_task=1), waiting("2", blocked="waits for 1"), busy("n1", 60)),
        plan=Plan(), slices=(slice_job("3"),), sliced=(SLICES, SlicePlan()),
    )  # fmt: skip
    found = starts(
        record("1", required_nodes="n4"), record("2"), record("3"),
        record("4", expected_nodes=("n2", "n3"), start_s=600, priority=9), record("5", required_nodes="n[3-4]", priority=9),
        record("6", priority=9), record("7", required_nodes="n1", priority=9, dependency="afterok:1"),
        record("8", expected_nodes=("n2",), start_s=7200, priority=9), record("9", required_nodes="n1", priority=0),
        record("10", required_nodes="n1", priority=9, eligible_s=60), decided=decided,
    )  # fmt: skip
    assert found == {
        "1": (("n4",), False), "3": (("n1",), False), "4": (("n2", "n3"), False), "5": (("n3", "n4"), False),
    }  # fmt: skip


def test_what_was_begun_is_gone_on_with() -> None:
    """A node that becomes free a little earlier than the one chosen first is no reason to begin anew."""
    ahead, job = Ahead(ahead_s=3600), waiting("1")
    first = cluster(job, busy("n1", 500), busy("n2", 600), busy("n3", 9000), busy("n4", 9000))
    assert starts(record("1"), decided=Decided(snapshot=first, plan=Plan()), ahead=ahead)["1"][0] == ("n1",)
    later = cluster(job, busy("n1", 500), busy("n2", 400), busy("n3", 9000), busy("n4", 9000))
    assert starts(record("1"), decided=Decided(snapshot=later, plan=Plan()), ahead=ahead)["1"][0] == ("n1",)
    assert starts(record("1"), decided=Decided(snapshot=later, plan=Plan()))["1"][0] == ("n2",)


def test_without_jobs_that_wait_for_models_nothing_of_the_cluster_is_looked_through() -> None:
    """Every cycle asks, also on clusters where nobody wants models; what was begun for those that left is forgotten."""
    ahead, record, job = Ahead(ahead_s=3600), JobRecord(slurm_id="1", state=JobState.PENDING), waiting(tasks=1)
    seen = Decided(snapshot=cluster(job, busy("n1", 600)), plan=Plan())
    assert [start.sure for start in ahead.starts([record], seen, lambda _: ())] == [False]
    untouchable = Decided(snapshot=object(), plan=object())  # type: ignore[arg-type]
    assert ahead.starts([], untouchable, lambda _: ()) == []
    assert ahead._begun == {}


def test_nothing_is_expected_of_jobs_that_start_for_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they start is known: the cluster is not looked through for others."""
    monkeypatch.setattr(ahead_of, "Forecast", lambda *_, **__: pytest.fail("was made for nobody"))
    job = waiting()
    plan = Plan(
        release=(Release(job=job.id, placement=(NodeGpus(node="n2", gpus=2),), queue_usage=QueueUsage.GUARANTEED),)
    )
    (start,) = Ahead(ahead_s=60).starts(
        [JobRecord(slurm_id="1", state=JobState.PENDING)], Decided(snapshot=cluster(job), plan=plan), lambda _: ()
    )
    assert (start.sure, start.nodes) == (True, ("n2",))
