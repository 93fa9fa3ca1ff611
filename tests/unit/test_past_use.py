"""What queues borrowed lately decides who borrows next, where the policy says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Settings, Snapshot
from slurmext.model.state import PastUse
from slurmext.policy.planner import plan
from slurmext.service.past_use import borrowed, brought_up

DAY_S = 86400.0


def use(queue: str, gpus: float, at_s: float = 0) -> PastUse:
    return PastUse(queue=queue, gpus=gpus, at_s=at_s)


def test_what_is_a_half_life_ago_counts_half() -> None:
    """A queue that stopped borrowing is half forgiven after a half-life, and forgotten some time."""
    assert brought_up([use("a", 8)], {"a": 0}, DAY_S, DAY_S) == [use("a", 4, DAY_S)]
    assert brought_up([use("a", 8)], {"a": 0}, 12 * DAY_S, DAY_S) == []


def test_a_steady_borrower_comes_to_what_it_borrows() -> None:
    """The mean moves towards the present use, however often it is brought up."""
    once = brought_up([use("a", 0.0)], {"a": 8}, DAY_S, DAY_S)
    known = [use("a", 0.0)]
    for step in range(1, 25):
        known = brought_up(known, {"a": 8}, step * DAY_S / 24, DAY_S)
    assert once[0].gpus == pytest.approx(4)
    assert known[0].gpus == pytest.approx(4)


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
