"""What is read out of Slurm's answers, with a Slurm that is a few lines of text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from slurmext.adapters.slurm_cli.reader import SlurmReader
from slurmext.adapters.slurm_cli.runner import Answer, SlurmRunner
from slurmext.adapters.slurm_cli.topology import SlurmTopology, parse_topology
from slurmext.model.cluster import JobRecord
from slurmext.model.job import JobState, NodeGpus
from slurmext.model.topology import Topology

NODE = "NodeName=n1 CPUTot=8 State=IDLE Gres=gpu:h100:8 RealMemory=1000"
PLAIN = {
    "State": "RUNNING", "Reason": "None", "PriorityLong": "100", "UserName": "ann", "UserID": "1000",
    "Partition": "main", "tres-per-node": "gres:gpu:2", "NumTasks": "1", "NumNodes": "1", "NodeList": "n1",
    "SubmitTime": "900", "StartTime": "950", "TimeLimit": "10:00", "requeue": "1", "BatchFlag": "1", "HetJobID": "N/A",
    "admin_comment": "slurmext/1 queue=research held=1", "Name": "train",
}  # fmt: skip


class FakeRunner:
    """Answers squeue with these jobs, in the fields and separators it is asked for."""

    def __init__(self, *jobs: dict[str, str]) -> None:
        self.jobs, self.calls = jobs, 0
        self.asked, self.details = list[str](), ""
        self.later, self.older = False, True

    def must(self, _command: str, _args: Sequence[str]) -> str:
        return NODE

    def run(self, command: str, args: Sequence[str], *, env: Mapping[str, str] | None = None) -> Answer:
        del env
        if command == "scontrol":
            self.asked.append(args[-1])
            return Answer(stdout=self.details, stderr="", code=0)
        assert command == "squeue", f"{command} is asked for job by job"
        if self.later and "--array-unique" in args:
            return Answer(stdout="", stderr="squeue: unrecognized option '--array-unique'", code=1)
        asked = [re.fullmatch(r"([\w-]+):0(.*)", item) for item in args[args.index("-O") + 1].split(",")]
        older = [found for found in asked if found and found[1] != "Exclusive"]
        unknown = "squeue: error: Invalid job format specification: Exclusive\n"
        problem = unknown if self.older and len(older) < len(asked) else ""
        asked = older if problem else asked  # it leaves out what it does not know, and says that it has succeeded
        lines = [
            "".join(f"{(PLAIN | job).get(found[1], '')}{found[2]}" for found in asked if found) for job in self.jobs
        ]
        return Answer(stdout="\n".join(lines) + "\n", stderr=problem, code=0)


def read(*jobs: dict[str, str]) -> dict[str, JobRecord]:
    clock = SimpleNamespace(now=lambda: 1000.0)
    view = SlurmReader(cast("SlurmRunner", FakeRunner(*jobs)), clock).read()
    return {job.slurm_id: job for job in view.jobs}


def test_components_of_a_heterogeneous_job_are_told_apart_and_hold_their_gpus() -> None:
    """HetJobID is a number for them and N/A for everybody else."""
    found = read(
        {"JobArrayID": "8+0", "JobID": "8", "HetJobID": "8"},
        {"JobArrayID": "8+1", "JobID": "9", "HetJobID": "8", "tres-per-node": "gres:gpu:1"},
        {"JobArrayID": "12_3", "JobID": "13"},
    )
    assert {job_id: job.het for job_id, job in found.items()} == {"8+0": True, "8+1": True, "12_3": False}
    assert found["8+1"].placement == (NodeGpus(node="n1", gpus=1),)
    assert found["12_3"].raw_id == "13"


@pytest.mark.parametrize(("nodes", "placement"), [("n1", (NodeGpus(node="n1", gpus=2),)), ("", ())])
def test_a_state_nobody_has_heard_of_is_unknown_and_keeps_its_nodes(
    nodes: str, placement: tuple[NodeGpus, ...]
) -> None:
    """A later Slurm may have states of its own; their GPUs are not free."""
    found = read({"JobArrayID": "1", "JobID": "1", "State": "TELEPORTING", "NodeList": nodes})
    assert (found["1"].state, found["1"].placement) == (JobState.UNKNOWN, placement)


def test_srun_has_no_batch_script() -> None:
    """So it cannot be requeued."""
    assert read({"JobArrayID": "1", "JobID": "1", "BatchFlag": "0"})["1"].batch is False


HELD = {"State": "PENDING", "NodeList": "", "PriorityLong": "0", "StartTime": "N/A"}


class Watched:
    """A reader, its Slurm and its clock."""

    def __init__(self, *jobs: dict[str, str]) -> None:
        self.slurm, self.now_s = FakeRunner(*jobs), 1000.0
        self.reader = SlurmReader(cast("SlurmRunner", self.slurm), SimpleNamespace(now=lambda: self.now_s))

    def limits(self) -> dict[str, int | None]:
        return {job.slurm_id: job.array_limit for job in self.reader.read().jobs}


def test_tasks_that_wait_together_are_jobs_of_their_own_and_all_have_the_limit() -> None:
    """One line stands for many; those that run have the limit of their array, too."""
    slurm = Watched(
        {"JobArrayID": "12_1", "JobID": "13"},
        {"JobArrayID": "12_[3,5-9:2%2]", "JobID": "12", **HELD},
        {"JobArrayID": "20_[0-1]", "JobID": "20", **HELD},
        {"JobArrayID": "30", "JobID": "30"},
    )
    limited = {"12_1": 2, "12_3": 2, "12_5": 2, "12_7": 2, "12_9": 2}
    assert slurm.limits() == {**limited, "20_0": None, "20_1": None, "30": None}
    found = {job.slurm_id: job for job in slurm.reader.read().jobs}
    assert (found["12_7"].state, found["12_7"].raw_id, found["12_7"].held) == (JobState.PENDING, "12", True)
    assert slurm.slurm.asked == [], "no command but the two that every reading takes"


def test_a_limit_is_followed_as_its_user_changes_it() -> None:
    """`scontrol update ArrayTaskThrottle=`."""
    slurm = Watched({"JobArrayID": "12_[0-1%1]", "JobID": "12", **HELD})
    assert slurm.limits() == {"12_0": 1, "12_1": 1}
    slurm.slurm.jobs = ({"JobArrayID": "12_[0-1%5]", "JobID": "12", **HELD},)
    assert slurm.limits() == {"12_0": 5, "12_1": 5}
    slurm.slurm.jobs = ({"JobArrayID": "12_[0-1]", "JobID": "12", **HELD},)
    assert slurm.limits() == {"12_0": None, "12_1": None}


def test_a_limit_that_no_line_shows_is_remembered_and_now_and_then_asked_for() -> None:
    """Tasks that were touched alone, such as those that came back, have lines without it."""
    slurm = Watched({"JobArrayID": "12_0", "JobID": "13"}, {"JobArrayID": "12_[1%1]", "JobID": "12", **HELD})
    slurm.limits()
    slurm.slurm.details = "JobId=12 ArrayJobId=12 ArrayTaskId=1 ArrayTaskThrottle=3 JobName=x"
    slurm.slurm.jobs = (
        {"JobArrayID": "12_0", "JobID": "13", **HELD},
        {"JobArrayID": "12_1", "JobID": "12"},
        {"JobArrayID": "30_0", "JobID": "31"},
    )
    assert slurm.limits() == {"12_0": 3, "12_1": 3, "30_0": None}
    assert slurm.slurm.asked == ["12_1"], "the task with the array's own number knows it"
    assert slurm.limits()["12_0"] == 3
    assert len(slurm.slurm.asked) == 1
    slurm.now_s += 60
    slurm.slurm.details = "JobId=12 ArrayJobId=12 ArrayTaskId=1 JobName=x"
    assert slurm.limits()["12_0"] is None
    slurm.now_s += 60
    slurm.limits()
    assert len(slurm.slurm.asked) == 2, "no limit, and nothing says that there is one again"


def test_an_array_without_a_limit_is_asked_about_once_at_most() -> None:
    """Unless Slurm says that one of its tasks waits for its limit."""
    slurm = Watched({"JobArrayID": "12_0", "JobID": "13", **HELD}, {"JobArrayID": "12_1", "JobID": "12", **HELD})
    for _ in range(5):
        assert slurm.limits() == {"12_0": None, "12_1": None}
        slurm.now_s += 60
    assert slurm.slurm.asked == ["12_1"]
    slurm.slurm.jobs = ({"JobArrayID": "12_0", "JobID": "13", **HELD, "Reason": "JobArrayTaskLimit"},)
    slurm.slurm.details = "JobId=12 ArrayTaskThrottle=1"
    assert slurm.limits() == {"12_0": 1}


def test_tasks_that_were_cancelled_together_have_all_ended() -> None:
    """Their array has no limit to tell of any more."""
    slurm = Watched({"JobArrayID": "12_[0-2%1]", "JobID": "12", **HELD, "State": "CANCELLED"})
    view = slurm.reader.read()
    assert ([job.slurm_id for job in view.ended], view.jobs) == (["12_0", "12_1", "12_2"], ())


def test_singletons_wait_for_those_before_them_alone() -> None:
    """Jobs of another user or name are none of theirs."""
    single = {**HELD, "Dependency": "singleton(unfulfilled)"}
    found = read(
        {"JobArrayID": "5", "JobID": "5", "UserName": "ben"},
        {"JobArrayID": "8", "JobID": "8", **single},
        {"JobArrayID": "9", "JobID": "9", **single},
        {"JobArrayID": "10", "JobID": "10", **single, "Name": "other"},
    )
    assert {job_id: bool(job.dependency) for job_id, job in found.items() if job.held} == {
        "8": False, "9": True, "10": False,
    }  # fmt: skip


def test_reservations_and_exclusive_jobs_are_told() -> None:
    """Neither shares what it gets with others."""
    found = read(
        {"JobArrayID": "1", "JobID": "1", "OverSubscribe": "NO", "Reservation": "(null)"},
        {"JobArrayID": "2", "JobID": "2", "OverSubscribe": "OK", "Reservation": "maint"},
    )
    assert [(job.exclusive, job.reserved) for job in found.values()] == [(True, False), (False, True)]


def test_a_later_squeue_that_shows_no_limits_has_each_array_asked_about_once() -> None:
    """24.11 has no --array-unique."""
    slurm = Watched({"JobArrayID": "12_0", "JobID": "12", **HELD}, {"JobArrayID": "12_1", "JobID": "12", **HELD})
    slurm.slurm.later, slurm.slurm.details = True, "JobId=12 ArrayTaskThrottle=1"
    assert [slurm.limits() for _ in range(3)] == [{"12_0": 1, "12_1": 1}] * 3
    assert len(slurm.slurm.asked) == 1


def test_the_network_is_read_from_slurms_topology() -> None:
    """Leaf switches of a tree, blocks of topology/block; a cluster without any has none."""
    tree = """SwitchName=s0 Level=0 LinkSpeed=1 Nodes=n[1-2]
SwitchName=s1 Level=0 LinkSpeed=1 Nodes=n3
SwitchName=core Level=1 LinkSpeed=1 Nodes=n[1-3] Switches=s[0-1]
"""
    assert parse_topology(tree) == Topology(racks={"n1": "s0", "n2": "s0", "n3": "s1"})
    blocks = "BlockName=b1 BlockIndex=0 Nodes=n[1-2] BlockSize=2\nBlockName=b2 BlockIndex=1 Nodes=n3 BlockSize=2\n"
    assert parse_topology(blocks) == Topology(domains={"n1": "b1", "n2": "b1", "n3": "b2"})
    assert parse_topology("scontrol: error: No topology information available\n") == Topology()


def test_the_topology_is_asked_for_now_and_then(tmp_path: Path) -> None:
    """It hardly ever changes; while Slurm is away it stays as it was."""
    program, clock = tmp_path / "scontrol", SimpleNamespace(now=lambda: now_s)
    program.write_text("#!/bin/sh\necho SwitchName=s0 Level=0 LinkSpeed=1 Nodes=n1\n")
    program.chmod(0o755)
    now_s, runner = 1000.0, SlurmRunner(tmp_path)
    topology = SlurmTopology(runner, clock)
    assert [topology(), topology()] == [Topology(racks={"n1": "s0"})] * 2
    assert runner.calls == 1
    now_s += 3600
    program.unlink()
    assert topology() == Topology(racks={"n1": "s0"})


TOTAL = {"tres-per-node": "N/A", "tres-per-job": "gres:gpu:6"}


def test_how_a_total_was_spread_is_read_and_not_guessed() -> None:
    """Slurm fills nodes: six GPUs on two nodes of four are four and two (tried on 22.05)."""
    slurm = Watched({"JobArrayID": "7", "JobID": "7", "NumNodes": "2", "NodeList": "n[1-2]", "NumTasks": "2", **TOTAL})
    slurm.slurm.details = (
        "JobId=7 NumNodes=2\n     Nodes=n1 CPU_IDs=0 Mem=512 GRES=gpu:h100:4(IDX:0-3)\n"
        "     Nodes=n2 CPU_IDs=0 Mem=512 GRES=gpu:h100:2(IDX:0-1)\n"
    )
    (job,) = slurm.reader.read().jobs
    assert job.placement == (NodeGpus(node="n1", gpus=4), NodeGpus(node="n2", gpus=2))
    assert (job.tasks, job.gpus_per_task, job.tasks_per_node) == (6, 1, None)


def test_a_total_is_told_from_gpus_of_each_node_or_task() -> None:
    """Only a total may be spread."""
    jobs = (TOTAL, {}, {"tres-per-node": "N/A", "tres-per-task": "gres:gpu:6"})
    found = read(*({"JobArrayID": str(at), "JobID": str(at), **HELD, **job} for at, job in enumerate(jobs)))
    assert [found[str(at)].total for at in range(3)] == [True, False, False]


def test_a_spread_job_that_ends_keeps_what_it_has_not_left_yet() -> None:
    """Its tasks are not all on the last of its nodes."""
    job = {"JobArrayID": "7", "JobID": "7", "NumNodes": "2", "NodeList": "n[1-2]", "NumTasks": "2", **TOTAL}
    slurm = Watched(job)
    slurm.slurm.details = "\n".join(
        f"     Nodes={node} CPU_IDs=0 Mem=1 GRES=gpu:{n}" for node, n in (("n1", 4), ("n2", 2))
    )
    slurm.reader.read()
    slurm.slurm.jobs = ({**job, "State": "COMPLETING", "NodeList": "n2", "NumNodes": "1"},)
    assert slurm.reader.read().jobs[0].placement == (NodeGpus(node="n2", gpus=2),)


@pytest.mark.parametrize(
    ("job", "older", "exclusive"),
    [
        ({"OverSubscribe": "NO"}, True, True),
        ({"OverSubscribe": "OK"}, True, False),
        ({"OverSubscribe": "NO", "Exclusive": "NO"}, False, False),
        ({"OverSubscribe": "NO", "Exclusive": "USER"}, False, False),
        ({"OverSubscribe": "NO", "Exclusive": "NODE"}, False, True),
    ],
)
def test_who_has_nodes_for_itself_is_told_by_each_slurm(job: dict[str, str], older: bool, exclusive: bool) -> None:
    """From 26.05 on nearly every job says OverSubscribe=NO."""
    slurm = Watched({"JobArrayID": "1", "JobID": "1", **job})
    slurm.slurm.older = older
    assert [slurm.reader.read().jobs[0].exclusive for _ in range(2)] == [exclusive] * 2


@pytest.mark.parametrize(("shown", "status"), [("768", 768), ("3:0", 768), ("0:9", 9), ("", None), ("N/A", None)])
def test_exit_codes_are_read_as_each_slurm_writes_them(shown: str, status: int | None) -> None:
    """A number as of wait(2), or code and signal."""
    slurm = Watched({"JobArrayID": "1", "JobID": "1", "State": "FAILED", "exit_code": shown})
    assert slurm.reader.read().ended[0].exit_status == status
