"""What the command line shows of sizes and of queues that exist as soon as a job is in them."""

from __future__ import annotations

import grp
import json
from typing import TYPE_CHECKING

import pytest

from slurmext.model.state import JobKey, JobRow
from slurmext.service.query import Queries, Viewer
from slurmext.testing.memory_store import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

    from conftest import Run

POLICY = """\
version: 1
settings: {default_queue: "research/{user}"}
sizes:
  small: {gpus_per_node: 1, cpus_per_gpu: 8, memory_per_gpu: 64G, time: "4:00:00", types: [h100, a100], summary: try}
  large: {nodes: 2, gpus_per_node: 8}
queues:
  research: {guaranteed: 4, max: 32, groups: {lab: {max: 9}}, dynamic: {max: 16, each_user: {max: 8}}}
  prod: {guaranteed: 16}
"""


@pytest.fixture
def store(seeded: SimpleNamespace) -> MemoryStore:
    """Research is guaranteed 4 and uses 6: alice 5, bob 1."""
    made = MemoryStore()
    lease = made.acquire_lease("controller", "ctl:1", 3600, seeded.now)
    assert lease is not None
    made.apply_policy(POLICY, "root", seeded.now)
    jobs = (("1", "alice", "research/alice", 5), ("2", "bob", "research/bob", 1), ("3", "eve", "gone/eve", 1))
    made.save_jobs(
        lease.token,
        [
            JobRow(job=JobKey(job_id=job_id, submit_s=1), user=user, queue=queue, state="running", gpus=gpus)
            for job_id, user, queue, gpus in jobs
        ],
    )
    return made


def test_queues_that_jobs_are_in_are_listed_below_their_parent(run: Run) -> None:
    """With their use; what the parent borrows is borrowed by its children. A queue nobody allows is not there."""
    done = run("queue", "list", "-nP", "-o", "Queue,Guaranteed,Max,Used,Borrowed,Leaf")
    assert done.output.splitlines() == [
        "research|4|32|6|2|no",
        "research/alice|0|16|5|2|yes",
        "research/bob|0|16|1|1|yes",
        "prod|16|-|0|0|yes",
    ]


def test_a_dynamic_queue_is_shown_with_the_limits_of_its_kind(run: Run) -> None:
    """Its own numbers, and its parent's say that queues come and go below it."""
    shown = run("queue", "show", "research/alice")
    assert shown.exit_code == 0, shown.output
    assert "Each user" in shown.output
    said = run("queue", "explain", "research/alice").output
    assert "research/alice shares what research is guaranteed with the other queues there." in said
    assert "It uses 5 now, so 2 are borrowed" in said
    parent = run("queue", "show", "research").output
    assert "queues below it exist as soon as a job is in them" in parent
    assert "Group lab" in parent


def test_limits_on_people_are_in_the_json(run: Run) -> None:
    """Those of the queue and those of each that comes and goes below it."""
    (row,) = [row for row in json.loads(run("queue", "list", "--json").output) if row["path"] == "research"]
    assert row["groups"] == {"lab": {"max": 9}}
    assert row["dynamic"]["each_user_max"] == 8


def test_sizes_are_listed_with_what_they_ask_for(run: Run) -> None:
    """What a size does not say is Slurm's default."""
    done = run("size", "list", "-nP")
    assert done.output.splitlines() == [
        "small|1|1|1|whole|h100,a100|8|64G|4:00:00|try",
        "large|16|2|8|whole|any|default|default|default|",
    ]


def test_a_policy_without_sizes_says_so(run: Run, store: MemoryStore) -> None:
    """The key to write is named."""
    store.apply_policy("version: 1\nqueues: {a: {}}\n", "root", 0)
    done = run("size", "list")
    assert "no sizes ('sizes:')" in done.output


def test_others_dynamic_queues_are_not_for_this_user(store: MemoryStore) -> None:
    """Each may use his own; what is written in the policy is for everybody."""
    answer = Queries(store=store).answer(Viewer(user="bob", groups=frozenset({"staff"})), "queues", {})
    rows = {row["path"]: row["may_use"] for row in answer["queues"]}  # pyright: ignore[reportGeneralTypeIssues]
    assert rows == {"research": True, "research/alice": False, "research/bob": True, "prod": True}


def test_groups_that_nobody_knows_are_warned_of(run: Run, tmp_path: Path) -> None:
    """In limits, ACLs and rules; a misspelt group would limit nobody."""
    file = tmp_path / "policy.yaml"
    group = grp.getgrgid(0).gr_name
    file.write_text(
        "version: 1\nplacement: [{group: no-such-rule, queue: a}]\n"
        f"queues: {{a: {{groups: {{{group}: {{max: 1}}, no-such-limit: {{max: 1}}}}, acl: {{groups: [no-such-acl]}}}}}}\n"
    )
    done = run("policy", "check", str(file))
    assert done.exit_code == 0
    assert "groups no-such-acl, no-such-limit, no-such-rule are not known on this host" in done.stderr
    file.write_text(f"version: 1\nqueues: {{a: {{groups: {{{group}: {{max: 1}}}}}}}}\n")
    assert "not known" not in run("policy", "check", str(file)).stderr
