"""The estimated start is the planner's own, with running jobs at their time limits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.queue import Queue, QuotaChange
from slurmext.model.snapshot import Settings, Snapshot
from slurmext.service.forecast import forecast, forecast_apart

NOW = 10_000.0


def running(job_id: str, node: str, left_s: float | None, **more: object) -> Job:
    limit = None if left_s is None else 1000 + left_s
    return Job(
        id=job_id, queue="one", state=JobState.RUNNING, tasks=8, started_s=NOW - 1000, time_limit_s=limit,
        placement=(NodeGpus(node=node, gpus=8),), **more,
    )  # fmt: skip


def waiting(job_id: str, gpus: int = 8, limit_s: float = 500, **more: object) -> Job:
    return Job(id=job_id, queue="one", state=JobState.PENDING, tasks=gpus, time_limit_s=limit_s, **more)


def world(*jobs: Job, **settings: object) -> Snapshot:
    nodes = (Node(name="n1", gpus=8), Node(name="n2", gpus=8))
    queues = (Queue(path="one"), Queue(path="prod", guaranteed=8))
    return Snapshot(now_s=NOW, nodes=nodes, queues=queues, jobs=jobs, settings=Settings(grace_s=30, **settings))


FULL = (running("r1", "n1", 100), running("r2", "n2", 300))


@pytest.mark.parametrize(
    ("job", "after_s"),
    [
        ("first", 100),  # r1 ends
        ("second", 300),  # r2 ends
        ("third", 600),  # first has used its own limit
    ],
)
def test_jobs_start_one_after_the_other_as_time_limits_end(job: str, after_s: float) -> None:
    """Who is asked first starts first, and runs as long as it may."""
    queue = [waiting(name, submitted_s=at) for at, name in enumerate(("first", "second", "third"))]
    assert forecast(world(*FULL, *queue), job).start_s == NOW + after_s


def test_nobody_with_less_right_starts_before() -> None:
    """A gang of 16 that was asked first keeps smaller jobs out only while it starts: they fill what it cannot use."""
    snapshot = world(*FULL, waiting("gang", 16, submitted_s=1), waiting("small", submitted_s=2, limit_s=150))
    assert forecast(snapshot, "small").start_s == NOW + 100
    assert forecast(snapshot, "gang").start_s == NOW + 300


def test_victims_use_their_whole_grace_and_wait_for_their_requeue_delay() -> None:
    """The beneficiary starts when they are gone; a victim that fits again only after the delay."""
    snapshot = world(*FULL, replace(waiting("p"), queue="prod"), requeue_delay_s=121)
    assert forecast(snapshot, "p").start_s == NOW + 30


def test_a_job_that_was_told_to_leave_already_leaves_within_its_grace() -> None:
    """Whoever it leaves for starts then."""
    told = (running("r1", "n1", 900, evicting_for="p"), running("r2", "n2", 900))
    assert forecast(world(*told, replace(waiting("p"), queue="prod")), "p").start_s == NOW + 30


def test_a_begin_time_is_waited_for() -> None:
    """Nothing else keeps it."""
    assert forecast(world(waiting("later", eligible_s=NOW + 50)), "later").start_s == NOW + 50


def test_a_calendar_that_makes_room_is_foreseen() -> None:
    """The queue may use more from then on."""
    small = Queue(path="one", max=8, changes=(QuotaChange(at_s=NOW + 200, max=16), QuotaChange(at_s=NOW + 9000, max=8)))
    snapshot = replace(world(running("r1", "n1", 1000), waiting("p")), queues=(small,))
    assert forecast(snapshot, "p").start_s == NOW + 200


def test_without_time_limits_nobody_can_say() -> None:
    """Running jobs may go on for ever, and a job that waits for another one's end does not start."""
    endless = (running("r1", "n1", None), running("r2", "n2", None))
    seen = forecast(world(*endless, waiting("p")), "p")
    assert (seen.start_s, seen.never) == (None, True)
    assert forecast(world(waiting("p", blocked="waits for 3")), "p").start_s is None


def test_a_forecast_ends_in_time() -> None:
    """Then it tells how far it saw."""
    queue = [waiting(f"w{number:03}", submitted_s=number) for number in range(50)]
    seconds = itertools.count()
    seen = forecast(world(*FULL, *queue), "w049", clock=lambda: float(next(seconds)), longest_s=5)
    assert (seen.start_s, seen.never) == (None, False)
    assert NOW < seen.seen_s < NOW + 10_000


def test_the_daemon_has_it_done_by_another_process() -> None:
    """The same answer, over standard input and output."""
    snapshot = world(*FULL, waiting("p"))
    assert forecast_apart(snapshot, "p") == forecast(snapshot, "p")
