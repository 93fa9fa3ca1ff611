"""When a simulation says that a guarantee was not kept in time, and for how long it looks."""

from __future__ import annotations

import pytest

from slurmext.model.node import Node
from slurmext.model.plan import Plan, Reason
from slurmext.model.queue import Queue, TypeQuota
from slurmext.model.snapshot import Settings, Snapshot
from slurmext.policy.planner import plan
from slurmext.simulate.engine import Simulation
from slurmext.simulate.peers import QosPreemption
from slurmext.simulate.track import Outcome
from slurmext.simulate.workload import TraceJob
from slurmext.simulate.world import World

NODES = (Node(name="n1", gpus=8), Node(name="n2", gpus=8))


def job(job_id: str, queue: str, submit_s: float, gpus: int = 8, duration_s: float = 1000, **more: object) -> TraceJob:
    return TraceJob(
        id=job_id, queue=queue, submit_s=submit_s, duration_s=duration_s, gpus_per_task=gpus, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def never_evicts(snapshot: Snapshot) -> Plan:
    """Slurmext without its teeth: nobody leaves for anybody."""
    made = plan(snapshot)
    reasons = {
        job_id: Reason.NO_FREE_GPUS if reason is Reason.RECLAIMING else reason
        for job_id, reason in made.reasons.items()
    }
    return Plan(release=made.release, reasons=reasons)


def play(*jobs: TraceJob, queues: tuple[Queue, ...], planner: object = plan, **world: object) -> Outcome:
    return Simulation(
        nodes=NODES, queues=queues, settings=Settings(grace_s=60), planner=planner,  # type: ignore[arg-type]
        world=World(**world),  # type: ignore[arg-type]
    ).run(jobs)  # fmt: skip


TWO = (Queue(path="prod", guaranteed=8), Queue(path="research", guaranteed=8))


def test_a_kept_guarantee_is_no_breach() -> None:
    """The victim saves for 20 s: that is what guaranteed demand waited, and it is in time."""
    outcome = play(job("a", "research", 0), job("b", "research", 0), job("p", "prod", 100), queues=TWO)
    assert outcome.breaches == []
    assert outcome.longest_guaranteed_s == {"prod": 20}


def test_guaranteed_demand_that_waits_too_long_is_a_breach() -> None:
    """Nobody makes room for prod: it waits until a job ends, although it is within its guarantee."""
    outcome = play(
        job("a", "research", 0), job("b", "research", 0, duration_s=500), job("p", "prod", 100),
        queues=TWO, planner=never_evicts,
    )  # fmt: skip
    (breach,) = outcome.breaches
    assert (breach.job, breach.queue, breach.at_s, breach.waited_s) == ("p", "prod", 500, 400)
    assert breach.reason == "NO_FREE_GPUS"


@pytest.mark.parametrize(("ends_s", "broken"), [(165, False), (166, True)])
def test_the_grace_and_five_seconds_are_the_limit(ends_s: float, broken: bool) -> None:
    """65 s with a grace of 60 s; one second more is too long."""
    outcome = play(
        job("a", "research", 0), job("b", "research", 0, duration_s=ends_s), job("p", "prod", 100),
        queues=TWO, planner=never_evicts,
    )  # fmt: skip
    assert bool(outcome.breaches) is broken


def test_what_a_queue_agreed_to_wait_is_no_breach() -> None:
    """With preemption_delay_s it is served when that is over, not before."""
    queues = (Queue(path="prod", guaranteed=8, preemption_delay_s=300), TWO[1])
    outcome = play(job("a", "research", 0), job("b", "research", 0), job("p", "prod", 100), queues=queues)
    assert outcome.breaches == []
    assert outcome.longest_guaranteed_s["prod"] == 320


def test_demand_beyond_the_guarantee_may_wait() -> None:
    """Prod runs what it is guaranteed; its second job only borrows."""
    outcome = play(
        job("a", "research", 0), job("p1", "prod", 0), job("p2", "prod", 10), queues=TWO, planner=never_evicts
    )
    assert outcome.breaches == []


def test_a_job_too_large_for_the_guarantee_is_passed_over_and_the_next_one_counts() -> None:
    """12 GPUs are more than the 8 of prod; the 4 behind it are within them."""
    outcome = play(
        job("a", "research", 0), job("b", "research", 0), job("big", "prod", 50, 6, tasks=2),
        job("p", "prod", 100, 4), queues=TWO, planner=never_evicts,
    )  # fmt: skip
    assert [breach.job for breach in outcome.breaches] == ["p"]


def test_demand_is_guaranteed_from_when_it_became_so() -> None:
    """Prod's second job is a borrower until its first one ends at 200 s, and is late counted from then."""
    outcome = play(
        job("p1", "prod", 0, duration_s=200), job("a", "research", 0), job("b", "research", 150),
        job("p2", "prod", 160), queues=TWO, planner=QosPreemption({}),
    )  # fmt: skip
    assert [(breach.job, breach.waited_s) for breach in outcome.breaches] == [("p2", 800)]


def test_a_users_limit_and_a_job_no_node_holds_are_nobodys_breach() -> None:
    """They would wait on an empty cluster as well."""
    queues = (Queue(path="prod", guaranteed=16, each_user_max=4), Queue(path="research", guaranteed=0))
    outcome = play(
        job("p1", "prod", 0, 4, user="u"), job("p2", "prod", 0, 4, user="u"), job("wide", "prod", 0, 9), queues=queues
    )
    assert outcome.breaches == []


def test_guarantees_per_gpu_type_are_their_own() -> None:
    """Prod is guaranteed 8 h100 only; it waits for one, not for a100."""
    queues = (
        Queue(path="prod", guaranteed=8, by_type={"h100": TypeQuota(guaranteed=8)}),
        Queue(path="research", guaranteed=0),
    )
    nodes = (Node(name="n1", gpus=8, gpu_type="h100"), Node(name="n2", gpus=8, gpu_type="a100"))
    trace = (
        job("a", "research", 0, types="h100"),
        job("b", "research", 0, types="a100"),
        job("p", "prod", 100, types="h100"),
        job("q", "prod", 100, types="a100"),
    )
    outcome = Simulation(nodes=nodes, queues=queues, settings=Settings(grace_s=60), planner=never_evicts).run(trace)
    assert [breach.job for breach in outcome.breaches] == ["p"]
