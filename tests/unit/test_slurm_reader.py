"""What is read out of Slurm's answers, with a Slurm that is a few lines of text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from slurmext.adapters.slurm_cli.reader import SlurmReader
from slurmext.adapters.slurm_cli.runner import Answer, SlurmRunner
from slurmext.model.cluster import JobRecord
from slurmext.model.job import JobState, NodeGpus

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

    def must(self, _command: str, _args: Sequence[str]) -> str:
        return NODE

    def run(self, command: str, args: Sequence[str]) -> Answer:
        assert command == "squeue", f"{command} is asked for job by job"
        asked = [re.fullmatch(r"([\w-]+):0(.*)", item) for item in args[args.index("-O") + 1].split(",")]
        lines = [
            "".join(f"{(PLAIN | job).get(found[1], '')}{found[2]}" for found in asked if found) for job in self.jobs
        ]
        return Answer(stdout="\n".join(lines) + "\n", stderr="", code=0)


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
