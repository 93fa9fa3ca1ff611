"""Queues that exist as soon as a job is in them, as the daemon sees them."""

from __future__ import annotations

import grp
import os
import pwd

from slurmext.cli.whatif import placed
from slurmext.config.policy import parse_policy
from slurmext.model.cluster import Annotation, ClusterView, JobRecord
from slurmext.model.job import JobState
from slurmext.model.node import Node
from slurmext.model.plan import QueueUsage
from slurmext.model.snapshot import Snapshot
from slurmext.policy.planner import plan
from slurmext.service.observe import Memory, observe
from slurmext.simulate.workload import TraceJob

POLICY = parse_policy(
    """\
version: 1
settings: {default_queue: "research/{user}"}
placement:
  - {group: students, queue: "teaching/{user}"}
  - {partition: debug, queue: "research/{group}"}
queues:
  research: {guaranteed: 8, max: 12, groups: {lab: {max: 6}}, dynamic: {max: 8}}
  teaching: {dynamic: {}}
"""
).as_model(1)
GROUPS = {"ann": ("staff", "lab"), "ben": ("students",), "cem": ()}
MEMORY = Memory(rows={}, open_actions=(), checkpoints={}, preempted={}, fences=(), not_before={})


def job(slurm_id: str, user: str, queue: str | None = None, **more: object) -> JobRecord:
    given: dict[str, object] = {
        "slurm_id": slurm_id,
        "user": user,
        "state": JobState.PENDING,
        "priority": 0,
        "gpus_per_task": 1,
        "tasks": 4,
        "annotation": Annotation(queue=queue),
    }
    return JobRecord(**given | more)  # pyright: ignore[reportArgumentType]


def seen(*records: JobRecord) -> Snapshot:
    view = ClusterView(read_s=100, nodes=(Node(name="n1", gpus=8), Node(name="n2", gpus=8)), jobs=records)
    return observe(view, POLICY, MEMORY, 100, lambda user: GROUPS.get(user, ())).snapshot


def queues(snapshot: Snapshot) -> dict[str, str]:
    return {job.id: job.queue for job in snapshot.jobs}


def test_a_queue_is_in_the_snapshot_while_a_job_is_in_it() -> None:
    """Once, with what its parent says of it; a queue nobody allows is not made."""
    snapshot = seen(job("1", "ann", "research/ann"), job("2", "ann", "research/ann"), job("3", "ann", "nowhere/ann"))
    assert [queue.path for queue in snapshot.queues] == ["research", "teaching", "research/ann"]
    assert (snapshot.queues[-1].max, snapshot.queues[-1].shares_guarantee) == (8, True)
    assert [queue.path for queue in seen().queues] == ["research", "teaching"]
    made = plan(snapshot)
    assert {release.job: release.queue_usage for release in made.release} == {"1": QueueUsage.GUARANTEED}
    assert {job_id: reason.value for job_id, reason in made.reasons.items()} == {
        "2": "GROUP_MAX",
        "3": "UNKNOWN_QUEUE",
    }


def test_jobs_that_name_no_queue_are_placed_by_the_rules() -> None:
    """Group, primary group, user; a rule that makes no queue of the job does not match."""
    snapshot = seen(
        job("1", "ann"), job("2", "ben"), job("3", "ann", partition="debug"), job("4", "cem", partition="debug")
    )
    assert queues(snapshot) == {"1": "research/ann", "2": "teaching/ben", "3": "research/staff", "4": "research/cem"}


def test_a_job_that_passed_unlooked_at_makes_no_queue_of_another_user() -> None:
    """Let through while nobody was there it gets the queue meant for it; one that was looked at keeps its own."""
    unheld = {"priority": 100, "state": JobState.RUNNING}
    snapshot = seen(
        job("1", "ann", annotation=Annotation(queue="research/ben", held=False), **unheld),
        job("2", "ann", annotation=Annotation(queue="teaching/ann", held=False), **unheld),
        job("3", "ann", "research/ben"),
        job("4", "ann", annotation=Annotation(queue="research", held=False), **unheld),
    )
    assert queues(snapshot) == {"1": "research/ann", "2": "teaching/ann", "3": "research/ben", "4": "research"}


def test_a_simulated_history_has_queues_and_groups_of_its_users() -> None:
    """Queues that jobs make are in the policy it is replayed under; groups are this host's, unless the trace has some."""
    user = pwd.getpwuid(os.getuid())
    group = grp.getgrgid(user.pw_gid).gr_name
    policy = parse_policy(
        "version: 1\nsettings: {default_queue: 'research/{user}'}\n"
        f"queues: {{research: {{groups: {{{group}: {{max: 2}}, other: {{max: 1}}}}, dynamic: {{}}}}}}\n"
    )
    made, jobs = placed(
        policy,
        [
            TraceJob(id="1", queue="", submit_s=0, duration_s=1, user=user.pw_name),
            TraceJob(id="2", queue="", submit_s=0, duration_s=1, user=user.pw_name, groups="other"),
        ],
    )
    assert f"research/{user.pw_name}" in made.by_path
    assert [job.as_pending().groups for job in jobs] == [(group,), ("other",)]
