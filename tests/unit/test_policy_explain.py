"""Explanations name the queues, jobs and numbers that decide."""

from __future__ import annotations

from slurmext.cli.reasons import PENDING
from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.plan import Reason
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Settings, Snapshot
from slurmext.policy.explain import explain, explain_queue, messages
from slurmext.policy.explain.books import books_of
from slurmext.policy.explain.reasons import sentence
from slurmext.policy.planner import plan

NODES = tuple(Node(name=f"n{i}", gpus=8, gpu_type="h100") for i in range(1, 5))
QUEUES = (Queue(path="research", guaranteed=16, max=32), Queue(path="prod", guaranteed=16, max=24))


def _running(job_id: str, node: str, queue: str = "research") -> Job:
    return Job(
        id=job_id, queue=queue, state=JobState.RUNNING, gpus_per_task=8, placement=(NodeGpus(node=node, gpus=8),),
        started_s=10, time_limit_s=1000, submitted_s=1,
    )  # fmt: skip


def _world(
    *pending: Job, running: tuple[Job, ...] = tuple(_running(f"r{i}", f"n{i}") for i in range(1, 5))
) -> Snapshot:
    return Snapshot(now_s=100, settings=Settings(grace_s=30), nodes=NODES, queues=QUEUES, jobs=(*running, *pending))


def test_reclaim_names_the_victims_and_the_grace() -> None:
    """A job for which others leave is told which, and how long that takes at most."""
    snapshot = _world(Job(id="p", queue="prod", state=JobState.PENDING, gpus_per_task=8, tasks=2))
    made = plan(snapshot)
    said = messages(snapshot, made)["p"]
    for victim in made.evict:
        assert victim.job in said
    assert "30 s" in said
    assert "within 30 s" in explain(snapshot, made, "p")
    assert "gives GPUs back to job p of queue prod" in explain(snapshot, made, made.evict[0].job)


def test_queue_max_names_the_limit() -> None:
    """A job over its queue's limit is told the limit, and that it never fits when it asks for more than that."""
    running = (*(_running(f"p{i}", f"n{i}", "prod") for i in range(1, 4)),)
    snapshot = _world(
        Job(id="a", queue="prod", state=JobState.PENDING, gpus_per_task=8),
        Job(id="b", queue="prod", state=JobState.PENDING, gpus_per_task=8, tasks=4),
        running=running,
    )
    said = messages(snapshot, plan(snapshot))
    assert "prod uses 24 of at most 24" in said["a"]
    assert "never use more than 24" in said["b"]


def test_no_free_gpus_tells_when_running_jobs_end() -> None:
    """A borrower that finds nothing free learns what is used and when time limits free enough."""
    running = tuple(_running(f"r{i}", f"n{i}", "research" if i < 3 else "prod") for i in range(1, 5))
    snapshot = _world(Job(id="x", queue="research", state=JobState.PENDING, gpus_per_task=8), running=running)
    made = plan(snapshot)
    assert made.reasons["x"] is Reason.NO_FREE_GPUS
    text = explain(snapshot, made, "x")
    assert "needs 8 GPUs, 0 are free" in text
    assert "in 910 s" in text


def test_every_reason_has_a_sentence() -> None:
    """Each pending reason gives a sentence, none the fallback by mistake."""
    snapshot = _world(Job(id="x", queue="research", state=JobState.PENDING, gpus_per_task=8))
    books = books_of(snapshot, plan(snapshot))
    pending = list(PENDING)
    job = snapshot.jobs[-1]
    told = {reason: sentence(books, job, reason) for reason in pending}
    assert all(told.values())
    unknown = [reason for reason, text in told.items() if "nothing is done" in text]
    assert unknown == [Reason.UNKNOWN_STATE]


def test_queue_explains_its_share_and_who_borrows() -> None:
    """A queue tells what it uses, its fair share and why, and who beside it borrows."""
    snapshot = _world(Job(id="p", queue="prod", state=JobState.PENDING, gpus_per_task=8))
    text = explain_queue(snapshot, plan(snapshot), "prod")
    assert "0 of 16 guaranteed" in text
    assert "fair share is 16 GPUs" in text
    assert "research 16" in text
    assert "1 jobs wait for 8 GPUs: 1 RECLAIMING" in text
    assert "no queue 'nope'" in explain_queue(snapshot, plan(snapshot), "nope")
