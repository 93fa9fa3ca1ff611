"""A planner that remembers what it counted plans as one that counts everything anew."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.plan import Plan, Reason
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot
from slurmext.policy.planner import Planner, plan
from slurmext.testing.world import step

sys.path.insert(0, str(Path(__file__).parent))
from worlds import snapshots

MANY = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("plain", [False, True])
@MANY
@given(data=st.data())
def test_following_a_world_gives_the_plans_of_counting_it_anew(data: st.DataObject, plain: bool) -> None:
    """Plans are carried out, jobs vanish and come back: at every step both plan the same."""
    snapshot = data.draw(snapshots(plain=plain))
    planner = Planner()
    gone: tuple[Job, ...] = ()
    for _ in range(4):
        made = planner.plan(snapshot)
        assert made == plan(snapshot)
        late = {evict.job: evict.beneficiary for evict in made.evict if data.draw(st.booleans())}
        snapshot = step(snapshot, made, leaves=lambda job_id, late=late: job_id not in late)
        told = tuple(replace(job, evicting_for=late[job.id]) if job.id in late else job for job in snapshot.jobs)
        snapshot = replace(snapshot, jobs=told)
        leaving = {job.id for job in snapshot.jobs if data.draw(st.integers(0, 5)) == 0}
        back, gone = gone, tuple(job for job in snapshot.jobs if job.id in leaving)
        jobs = [job for job in snapshot.jobs if job.id not in leaving]
        known = {job.id for job in jobs}
        jobs += [replace(job, evicting_for=None) for job in back if job.id not in known]
        snapshot = replace(snapshot, now_s=snapshot.now_s + 30, jobs=tuple(jobs))


@MANY
@given(snapshots(), snapshots())
def test_another_cluster_is_no_surprise(one: Snapshot, other: Snapshot) -> None:
    """Nodes, queues and all jobs changed at once."""
    planner = Planner()
    for snapshot in (one, other, one):
        assert planner.plan(snapshot) == plan(snapshot)


def _same_plans(*snapshots: Snapshot) -> Plan:
    planner, made = Planner(), Plan()
    for snapshot in snapshots:
        made = planner.plan(snapshot)
        assert made == plan(snapshot)
    return made


def _running(job: Job, *, evicting_for: str | None = None) -> Job:
    placement = (NodeGpus(node="n1", gpus=job.gpus),)
    return replace(job, state=JobState.RUNNING, placement=placement, started_s=0, evicting_for=evicting_for)


NODES = (Node(name="n1", gpus=8),)


def test_a_queue_above_others_gets_its_first_job() -> None:
    """A job of a parent queue sits beside that queue's children: the tree grows by a leaf, and shrinks again."""
    queues = (Queue(path="org", guaranteed=8), Queue(path="org/team", guaranteed=4))
    teams = [Job(id=name, queue="org/team", state=JobState.PENDING, gpus_per_task=4) for name in ("2", "3")]
    one = Snapshot(nodes=NODES, queues=queues, jobs=tuple(_running(job) for job in teams))
    two = replace(one, jobs=(*one.jobs, Job(id="1", queue="org", state=JobState.PENDING, gpus_per_task=4)))
    _same_plans(one, two, one)


def test_a_victim_that_left_frees_nothing_more() -> None:
    """Its GPUs are its beneficiary's; nobody else waits for them."""
    queues = (Queue(path="prod", guaranteed=16), Queue(path="lab"))
    victim = Job(id="v", queue="lab", state=JobState.PENDING, gpus_per_task=8)
    first = Job(id="b", queue="prod", state=JobState.PENDING, gpus_per_task=8)
    second = Job(id="c", queue="prod", state=JobState.PENDING, gpus_per_task=8, submitted_s=1)
    one = Snapshot(nodes=NODES, queues=queues, jobs=(_running(victim, evicting_for="b"), first, second))
    made = _same_plans(one, replace(one, jobs=(victim, _running(first), second)))
    assert made.reasons["c"] is Reason.NO_FREE_GPUS


def test_an_error_leaves_nothing_half_counted() -> None:
    """A snapshot that cannot be counted does not spoil the plans after it."""
    snapshot = Snapshot()
    planner = Planner()
    planner.plan(snapshot)
    broken = replace(snapshot, jobs=(None,))  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        planner.plan(broken)
    assert planner.plan(snapshot) == plan(snapshot)
