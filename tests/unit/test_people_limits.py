"""Limits on users and groups: what is said of them, and where groups come from."""

from __future__ import annotations

import grp
import os
import pwd

from slurmext.adapters.unix_groups import REMEMBER_S, UnixGroups, groups_of
from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.queue import Queue, UserLimit
from slurmext.model.snapshot import Snapshot
from slurmext.policy.explain import messages
from slurmext.policy.planner import plan

ORG = Queue(
    path="org",
    users={"ann": UserLimit(max=4)},
    groups={"lab": UserLimit(max=6)},
    each_user_max=5,
)


def _job(job_id: str, user: str, gpus: int, *, queue: str = "org/x", runs: bool = False, groups: tuple[str, ...] = ()):
    return Job(
        id=job_id,
        queue=queue,
        state=JobState.RUNNING if runs else JobState.PENDING,
        user=user,
        tasks=gpus,
        placement=(NodeGpus(node="n1", gpus=gpus),) if runs else (),
        started_s=0 if runs else None,
        groups=groups,
    )


def _said(*jobs: Job) -> dict[str, str]:
    snapshot = Snapshot(
        nodes=(Node(name="n1", gpus=8), Node(name="n2", gpus=8)),
        queues=(ORG, Queue(path="org/x"), Queue(path="org/y")),
        jobs=jobs,
    )
    return messages(snapshot, plan(snapshot))


def test_a_users_limit_is_told_with_its_queue_and_what_the_user_holds() -> None:
    """The limit stands at org, the user's GPUs are in another queue below it."""
    said = _said(_job("1", "ann", 3, queue="org/y", runs=True), _job("2", "ann", 2))
    assert said["2"] == "ann may hold 4 GPUs in queue org and holds 3; the job needs 2"


def test_a_job_that_can_never_start_under_its_users_limit_is_told_so() -> None:
    """Everybody's limit, for a user who is not listed."""
    assert _said(_job("1", "ben", 6))["1"] == (
        "it asks for 6 GPUs and ben may never hold more than 5 in queue org; ask for fewer"
    )


def test_a_groups_limit_is_told_with_who_holds_what() -> None:
    """Members by name, most first."""
    said = _said(
        _job("1", "ann", 1, queue="org/y", runs=True, groups=("lab",)),
        _job("2", "ben", 4, runs=True, groups=("lab",)),
        _job("3", "cem", 2, groups=("lab",)),
    )
    assert said["3"] == "group lab may hold 6 GPUs in queue org and holds 5 (ben 4, ann 1); the job needs 2"


def test_groups_are_those_of_the_name_service_with_the_primary_one_first() -> None:
    """As `id` prints them; a user nobody knows has none."""
    user = pwd.getpwuid(os.getuid())
    found = groups_of(user.pw_name)
    assert found[0] == grp.getgrgid(user.pw_gid).gr_name
    assert groups_of("no-such-user-here") == ()


def test_groups_are_remembered_for_a_while() -> None:
    """The name service is asked once per user in five minutes."""
    asked: list[str] = []

    def ask(user: str) -> tuple[str, ...]:
        asked.append(user)
        return ("lab",)

    now = [0.0]
    groups = UnixGroups(ask, lambda: now[0])
    assert (groups("ann"), groups("ann")) == (("lab",), ("lab",))
    assert asked == ["ann"]
    now[0] = REMEMBER_S + 1
    groups("ann")
    assert asked == ["ann", "ann"]
