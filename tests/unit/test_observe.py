"""What the planner is shown of Slurm's jobs: arrays, heterogeneous jobs, srun, unknown states, reasons so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from slurmext.model.cluster import Annotation, ClusterView, JobRecord
from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.plan import Reason
from slurmext.model.policy import Policy
from slurmext.model.queue import Queue
from slurmext.model.state import JobRow
from slurmext.policy.planner import plan
from slurmext.service.intents import intents_of
from slurmext.service.job_rows import job_rows
from slurmext.service.observe import Memory, Observation, observe
from slurmext.service.reason_history import MOST, reasons_in, with_reason
from slurmext.service.totals import with_totals

NOW_S = 1000.0
POLICY = Policy(version=1, queues=(Queue(path="research", guaranteed=16),))
NODES = (Node(name="n1", gpus=8), Node(name="n2", gpus=8))


def record(slurm_id: str, **more: object) -> JobRecord:
    given = {"state": JobState.PENDING, "priority": 0, "gpus_per_task": 2, "annotation": Annotation(queue="research")}
    return JobRecord(slurm_id=slurm_id, raw_id=slurm_id, user="ann", submit_s=900, **(given | more))


def running(slurm_id: str, node: str, **more: object) -> JobRecord:
    placement = (NodeGpus(node=node, gpus=2),)
    return record(slurm_id, state=JobState.RUNNING, priority=100, placement=placement, start_s=950, **more)


def seen(*jobs: JobRecord, rows: Sequence[JobRow] = (), ended: Sequence[JobRecord] = ()) -> Observation:
    memory = Memory(
        rows={row.job.job_id: row for row in rows}, open_actions=(), checkpoints={}, preempted={}, fences=(),
        not_before={},
    )  # fmt: skip
    return observe(ClusterView(read_s=NOW_S, nodes=NODES, jobs=jobs, ended=tuple(ended)), POLICY, memory, NOW_S)


def jobs(observation: Observation) -> dict[str, Job]:
    return {job.id: job for job in observation.snapshot.jobs}


def test_gpus_of_heterogeneous_jobs_are_taken_and_their_components_left_alone() -> None:
    """Each component's GPUs are missing on its node; none of them is a job of the snapshot."""
    observation = seen(
        running("12+0", "n1", het=True, annotation=None),
        running("12+1", "n2", het=True, annotation=None),
        record("13+0", het=True),
        record("14", tasks=8, gpus_per_task=1),
    )
    assert {node.name: node.gpus for node in observation.snapshot.nodes} == {"n1": 6, "n2": 6}
    assert list(jobs(observation)) == ["14"]
    (release,) = plan(observation.snapshot).release
    assert {part.node: part.gpus for part in release.placement} == {"n1": 6, "n2": 2}


def test_jobs_that_wait_in_slurm_outside_our_queues_are_rivals() -> None:
    """Held ones and those with a dependency are not: Slurm does not start them."""
    assert seen(record("1", annotation=None, priority=100)).rivals
    assert seen(record("1+0", het=True, annotation=None, priority=1)).rivals
    assert not seen(
        record("1", annotation=None), record("2", annotation=None, priority=9, dependency="afterok:7")
    ).rivals
    assert not seen(record("1"), running("2", "n1", annotation=None)).rivals


def test_each_array_task_is_a_job_of_its_own() -> None:
    """They start and leave one by one."""
    found = jobs(seen(running("12_3", "n1"), record("12_4"), record("12_5")))
    assert [(job.id, job.state) for job in found.values()] == [
        ("12_3", JobState.RUNNING),
        ("12_4", JobState.PENDING),
        ("12_5", JobState.PENDING),
    ]


def test_srun_salloc_and_no_requeue_jobs_cannot_be_requeued() -> None:
    """Srun and salloc have no batch script to start again."""
    found = jobs(seen(record("1", batch=False), record("2", requeue=False), record("3")))
    assert [job.requeue for job in found.values()] == [False, False, True]


def test_a_state_that_was_not_understood_is_unknown_and_keeps_its_gpus() -> None:
    """Nothing is started on them, nothing is done to the job."""
    observation = seen(
        replace(running("1", "n1", gpus_per_task=8), state=JobState.UNKNOWN, placement=(NodeGpus(node="n1", gpus=8),)),
        record("2", gpus_per_task=8),
        record("3", gpus_per_task=8),
    )
    made = plan(observation.snapshot)
    assert [release.placement[0].node for release in made.release] == ["n2"]
    assert made.evict == ()
    assert made.reasons["3"] is Reason.BEHIND_IN_QUEUE


def test_the_reasons_a_job_waited_for_are_kept_across_cycles() -> None:
    """A new one is added, the same one is not, and a start ends the last."""
    first = job_rows(seen(record("1")), {"1": Reason.QUEUE_MAX}, {}, NOW_S)
    second = job_rows(seen(record("1"), rows=first), {"1": Reason.QUEUE_MAX}, {}, NOW_S + 10)
    third = job_rows(seen(record("1"), rows=second), {"1": Reason.RECLAIMING}, {}, NOW_S + 20)
    last = job_rows(seen(running("1", "n1"), rows=third), {}, {}, NOW_S + 30)
    assert list(reasons_in(third[0].reasons)) == [("QUEUE_MAX", 1000, 1020), ("RECLAIMING", 1020, None)]
    assert list(reasons_in(last[0].reasons)) == [("QUEUE_MAX", 1000, 1020), ("RECLAIMING", 1020, 1030)]


def test_only_the_newest_reasons_are_kept() -> None:
    """A job that goes back and forth for days does not grow its row."""
    history = ""
    for second in range(1000):
        history = with_reason(history, f"R{second % 2}", second)
    assert len(history.split()) == MOST
    assert history.endswith("R1@999")
    assert with_reason("", "", 1) == ""


def released(job: JobRecord) -> dict[str, int]:
    """GPUs by node of what the plan starts."""
    return {part.node: part.gpus for start in plan(seen(job).snapshot).release for part in start.placement}


def test_a_total_that_no_node_holds_is_spread_over_as_few_as_do() -> None:
    """`sbatch --gpus=12` on nodes of 8, as Slurm does by itself; what a node could hold stays on one."""
    assert released(record("1", gpus_per_task=12, total=True)) == {"n1": 8, "n2": 4}
    assert released(record("1", gpus_per_task=16, total=True, exclusive=True)) == {"n1": 8, "n2": 8}
    assert released(record("1", gpus_per_task=8, total=True)) == {"n1": 8}
    assert released(record("1", gpus_per_task=12)) == {}, "one task's GPUs are on one node"


def test_a_spread_total_is_released_to_the_nodes_of_the_plan() -> None:
    """Left to itself Slurm might take GPUs of more nodes."""
    observation = seen(record("1", gpus_per_task=16, total=True))
    intents = intents_of(plan(observation.snapshot), observation, POLICY, (), now=NOW_S, guard_s=30, requeues_left=None)
    assert [intent.detail["nodes"] for intent in intents] == [["n1", "n2"]]


def test_types_decide_what_a_node_could_hold() -> None:
    """Of the type that it asks for no node has so many."""
    nodes = (Node(name="n1", gpus=4, gpu_type="a100"), Node(name="n2", gpus=8, gpu_type="h100"))
    job = record("1", gpus_per_task=6, total=True)
    typed = replace(job, annotation=Annotation(queue="research", types=("a100",)))
    view = with_totals(ClusterView(read_s=NOW_S, nodes=nodes, jobs=(job, typed)))
    assert [(one.tasks, one.gpus_per_task, one.nodes) for one in view.jobs] == [(1, 6, 1), (6, 1, 2)]


GANG = {"tasks": 2, "tasks_per_node": 1, "start_s": 950}
BOTH = (NodeGpus(node="n1", gpus=2), NodeGpus(node="n2", gpus=2))


def had(rows: Sequence[JobRow]) -> tuple[int, str, float | None]:
    (row,) = rows
    return row.gpus, row.nodes, row.start_s


def test_a_job_that_ends_has_had_all_its_nodes() -> None:
    """Of a completing job Slurm lists, and counts, only the nodes that it has not left yet."""
    runs = record("1", state=JobState.RUNNING, priority=100, placement=BOTH, **GANG)
    ends = replace(runs, state=JobState.COMPLETING, slurm_state="COMPLETING", tasks=1, placement=BOTH[:1])
    ran = job_rows(seen(runs), {}, {}, NOW_S)
    assert had(ran) == (4, "n1,n2", 950)
    assert had(job_rows(seen(ends, rows=ran), {}, {}, NOW_S)) == (4, "n1,n2", 950)
    held = job_rows(seen(record("1", **{**GANG, "start_s": None})), {}, {}, NOW_S)
    assert had(job_rows(seen(ends, rows=held), {}, {}, NOW_S)) == (4, "n1", 950), "nobody saw it run"


def test_a_job_that_nobody_saw_run_has_run_where_slurm_says_at_last() -> None:
    """It started and ended between two looks; one that was cancelled while it waited has not run."""
    held = job_rows(seen(record("1", **{**GANG, "start_s": None})), {}, {}, NOW_S)
    done = record("1", slurm_state="COMPLETED", placement=tuple(replace(part, gpus=0) for part in BOTH), **GANG)
    assert had(job_rows(seen(rows=held, ended=[done]), {}, {}, NOW_S)) == (4, "n1,n2", 950)
    left = replace(held[0], gpus=2, nodes="n1", start_s=950.0, state="completing")
    assert had(job_rows(seen(rows=[left], ended=[done]), {}, {}, NOW_S)) == (4, "n1,n2", 950)
    cancelled = replace(done, slurm_state="CANCELLED", placement=(), tasks=4294967294)
    assert had(job_rows(seen(rows=held, ended=[cancelled]), {}, {}, NOW_S)) == (4, "", None)
