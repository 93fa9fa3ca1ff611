"""Explanations name the queues, jobs and numbers that decide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.cli.reasons import PENDING
from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.plan import Plan, Reason
from slurmext.model.queue import Queue, QuotaChange, TypeQuota
from slurmext.model.snapshot import Settings, Snapshot
from slurmext.policy.explain import explain, explain_queue, messages
from slurmext.policy.explain.account import account_lines
from slurmext.policy.explain.books import books_of
from slurmext.policy.explain.queue import QueueAccount, queue_account
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


def test_slices_count_by_their_share_and_are_named() -> None:
    """In the sentence, in the account, and in the queue's fair share; rounding is said where it decides."""
    full = replace(_waiting_at_max(used=2), sliced={"a": {"bob": 0.43, "eve": 0.5}})
    stands_for = Job(id="slices of bob in a", queue="a", state=JobState.RUNNING, user="bob", preemptible=False)
    full = replace(full, jobs=(*full.jobs, stands_for))
    (said,) = messages(full, Plan(reasons={"w": Reason.QUEUE_MAX})).values()
    assert said == "queue a uses 2.93 of at most 3 GPUs, 0.93 of them in slices, and the job needs 1"
    fewer = replace(_waiting_at_max(used=2), sliced={"a": {"bob": 0.43}, "b": {"eve": 0.1}})
    account = queue_account(replace(fewer, jobs=(*fewer.jobs, stands_for)), Plan(reasons={"w": Reason.QUEUE_MAX}), "a")
    assert (account.uses, account.sliced, account.waiting_jobs) == (2.43, 0.43, 1)
    assert account.share == 3
    assert account_lines(account, 0)[0].startswith("Queue a uses 2.43 GPUs (0.43 in slices): 2.43 of 3 guaranteed")
    tight = replace(_waiting_at_max(used=1), sliced={"a": {"bob": 0.43}, "a/x": {"eve": 0.43}})
    (said,) = messages(tight, Plan(reasons={"w": Reason.QUEUE_MAX})).values()
    assert said.startswith(
        "queue a uses 1.86 of at most 3 GPUs, 0.86 of them in slices and rounded up to whole ones here,"
    )


def test_a_type_that_is_not_here_is_told_with_those_that_are() -> None:
    """Nobody looks for the fault in the number of nodes."""
    snapshot = _waiting_at_max(used=0)
    snapshot = replace(snapshot, jobs=(replace(snapshot.jobs[-1], types=("a100",)),))
    (said,) = messages(snapshot, Plan(reasons={"w": Reason.NO_NODE_FITS})).values()
    assert said == "no node here has a GPU of type a100; there are h100 (4)"


def _waiting_at_max(*, used: int) -> Snapshot:
    """Queue a of at most 3 of 4 GPUs, with `used` of them in use and a job of one GPU that waits."""
    run = [
        Job(id=f"r{number}", queue="a", state=JobState.RUNNING, placement=(NodeGpus(node="n1", gpus=1),))
        for number in range(used)
    ]
    waits = Job(id="w", queue="a", state=JobState.PENDING, user="bob")
    return Snapshot(
        nodes=(Node(name="n1", gpus=4, gpu_type="h100"),),
        queues=(Queue(path="a", guaranteed=3, max=3), Queue(path="b", guaranteed=1)),
        jobs=(*run, waits),
    )


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
    """A queue tells what it uses, its fair share and why, who beside it borrows from whom, and who starves."""
    snapshot = _world(Job(id="p", queue="prod", state=JobState.PENDING, gpus_per_task=8))
    text = explain_queue(snapshot, plan(snapshot), "prod")
    assert "0 of 16 guaranteed, 0 borrowed, at most 24" in text
    assert "fair share now is 8 GPUs, 8 more than it uses" in text
    assert "1 job waits for 8 GPUs, the first for 100 s: 1 RECLAIMING" in text
    assert "research 16; they come from idle guarantees of prod 16" in text
    assert "Below their fair share while jobs wait: prod 8 (8 of its guarantee)" in text
    assert "no queue 'nope'" in explain_queue(snapshot, plan(snapshot), "nope")


TREE = (
    Queue(path="research", guaranteed=16),
    Queue(path="research/nlp", guaranteed=8, weight=3),
    Queue(path="research/vision", guaranteed=4, by_type={"h100": TypeQuota(guaranteed=4)}),
    Queue(path="prod", guaranteed=8, reserved=4),
    Queue(path="guests"),
)


def _account(path: str) -> QueueAccount:
    """Guests borrow 12, nlp borrows 8 of its siblings; vision's and research's own jobs wait."""
    jobs = (
        _running("1", "n1", "research/nlp"), _running("2", "n2", "research/nlp"), _running("3", "n3", "guests"),
        replace(_running("4", "n4", "guests"), gpus_per_task=4, placement=(NodeGpus(node="n4", gpus=4),)),
        Job(id="5", queue="research/vision", state=JobState.PENDING, tasks=6),
        Job(id="6", queue="research", state=JobState.PENDING, tasks=6),
        Job(id="7", queue="guests", state=JobState.PENDING, tasks=6, blocked="waits for 3"),
    )  # fmt: skip
    snapshot = Snapshot(now_s=100, nodes=NODES, queues=TREE, jobs=jobs)
    return queue_account(snapshot, plan(snapshot), path)


def test_every_level_tells_what_it_shares_and_each_queues_part() -> None:
    """The cluster's 28 lendable GPUs by weight, then research's among its queues and its own jobs."""
    cluster, research = _account("research/nlp").levels
    assert (cluster.parent, cluster.gpus, cluster.kept, cluster.beyond) == ("", 28, 4, 12)
    assert {row.path: (row.wants, row.share) for row in cluster.rows} == {
        "guests": (12, 6),  # the blocked job wants nothing yet
        "prod": (0, 0),
        "research": (28, 22),
    }
    shares = {(row.path, row.own): row.share for row in research.rows}
    assert sum(shares.values()) == pytest.approx(22)
    assert shares["research/nlp", False] - 8 == pytest.approx(3 * (shares["research/vision", False] - 4))
    assert [row.path for row in research.rows if row.own] == ["research"]


def test_borrowed_gpus_are_told_apart_from_those_nobody_is_guaranteed() -> None:
    """Prod lends only what it does not reserve; vision and research itself lend to nlp."""
    cluster, research = _account("research").levels
    assert {row.path: row.lends for row in cluster.rows} == {"guests": 0, "prod": 4, "research": 0}
    assert {row.path: (row.lends, row.borrows) for row in research.rows if not row.own} == {
        "research/nlp": (0, 8),
        "research/vision": (4, 0),
    }


def test_types_with_quotas_have_levels_of_their_own() -> None:
    """All nodes are h100: vision's guarantee of that type counts before nlp's use of it."""
    account = _account("research/vision")
    (*_, research) = account.types["h100"]
    vision = next(row for row in research.rows if row.path == "research/vision")
    assert (vision.guaranteed, vision.wants) == (4, 6)
    assert vision.share >= 4
    assert account.waiting_jobs == 1
    assert {row.path for row in account.starving} == {"research", "research/vision"}


def test_a_max_that_the_calendar_raises_is_told_with_its_time() -> None:
    """Nobody is sent away who only has to wait for the night."""
    queue = Queue(path="a", max=4, changes=(QuotaChange(at_s=9000, max=8),))
    job = Job(id="1", queue="a", state=JobState.PENDING, tasks=8)
    snapshot = Snapshot(now_s=0, nodes=(Node(name="n1", gpus=8),), queues=(queue,), jobs=(job,))
    said = "it asks for 8 GPUs and queue a may use 4 now; in 2 h 30 min the calendar lets it use more"
    assert messages(snapshot, plan(snapshot)) == {"1": said}


def test_a_job_in_the_calendars_way_is_told_which_time_limit_would_do() -> None:
    """The longest one that ends before the next change."""
    queue = Queue(path="a", max=8, changes=(QuotaChange(at_s=9030, max=0),))
    job = Job(id="1", queue="a", state=JobState.PENDING, tasks=8)
    snapshot = Snapshot(now_s=0, nodes=(Node(name="n1", gpus=8),), queues=(queue,), jobs=(job,))
    said = messages(snapshot, plan(snapshot))["1"]
    assert said.endswith("before the job's time limit is over; a --time of at most 150 minutes lets it start")


def test_queues_that_share_their_parents_guarantee_are_told_so() -> None:
    """What they use of it is not borrowed, and nobody beside them borrows it."""
    users = (Queue(path="research/ann", shares_guarantee=True), Queue(path="research/ben", shares_guarantee=True))
    jobs = tuple(
        Job(id=f"{user}{number}", queue=f"research/{user}", state=JobState.PENDING)
        for user in ("ann", "ben")
        for number in range(20)
    )
    queues = (Queue(path="research", guaranteed=16), Queue(path="prod", guaranteed=16, reserved=16), *users)
    snapshot = Snapshot(now_s=100, nodes=NODES, queues=queues, jobs=jobs)
    text = explain_queue(snapshot, plan(snapshot), "research/ben")
    assert "uses 8 GPUs: 8 of 16 guaranteed to all of research together, 0 borrowed" in text
    assert "fair share now is 8 GPUs" in text
    assert "beyond guarantees:" not in text
