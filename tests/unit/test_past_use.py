"""What queues borrowed lately decides who borrows next, where the policy says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Settings, Snapshot
from slurmext.policy.past_use import borrowed, faded
from slurmext.policy.planner import plan

DAY_S = 86400.0


def test_what_is_a_half_life_ago_counts_half() -> None:
    """A queue that stopped borrowing is half forgiven after a half-life, and forgotten some time."""
    assert faded({"a": 8}, {"a": 0}, DAY_S, DAY_S) == {"a": 4}
    assert faded({"a": 8}, {"a": 0}, 12 * DAY_S, DAY_S) == {}


def test_a_steady_borrower_comes_to_what_it_borrows() -> None:
    """The mean moves towards the present use, however often it is brought up."""
    hourly: dict[str, float] = {}
    for _ in range(24):
        hourly = faded(hourly, {"a": 8}, DAY_S / 24, DAY_S)
    assert faded({}, {"a": 8}, DAY_S, DAY_S)["a"] == pytest.approx(4)
    assert hourly["a"] == pytest.approx(4)


def test_a_clock_that_was_set_back_forgives_and_adds_nothing() -> None:
    """Time does not run backwards."""
    assert faded({"a": 8}, {"a": 2}, -DAY_S, DAY_S) == {"a": 8}


def test_only_what_is_beyond_the_guarantee_is_borrowed() -> None:
    """At every level of the tree."""
    job = Job(id="1", queue="org/a", state=JobState.RUNNING, gpus_per_task=6, placement=(NodeGpus(node="n1", gpus=6),))
    queues = (Queue(path="org", guaranteed=5), Queue(path="org/a", guaranteed=2), Queue(path="lab"))
    snapshot = Snapshot(nodes=(Node(name="n1", gpus=8),), queues=queues, jobs=(job,))
    assert borrowed(snapshot) == {"org": 1, "org/a": 4, "lab": 0}


def test_who_borrowed_much_lately_comes_after_who_did_not() -> None:
    """With past_factor 0 the past does not matter."""
    jobs = tuple(
        Job(id=name, queue=queue, state=JobState.PENDING, gpus_per_task=8, submitted_s=submitted_s)
        for name, queue, submitted_s in (("1", "busy", 0), ("2", "quiet", 10))
    )
    snapshot = Snapshot(
        nodes=(Node(name="n1", gpus=8),),
        queues=(Queue(path="busy"), Queue(path="quiet")),
        jobs=jobs,
        past_gpus={"busy": 20.0},
    )
    assert [release.job for release in plan(snapshot).release] == ["1"]
    remembers = replace(snapshot, settings=Settings(past_factor=0.5))
    assert [release.job for release in plan(remembers).release] == ["2"]
