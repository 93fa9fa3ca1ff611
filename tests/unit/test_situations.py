"""Random situations: the same from the same seed, within the guarantee; and who could be served in one."""

from __future__ import annotations

import pytest

from slurmext.model.job import Job, JobState, NodeGpus
from slurmext.model.node import Node
from slurmext.model.queue import Queue
from slurmext.model.snapshot import Snapshot
from slurmext.testing.reclaimable import reclaimable
from slurmext.testing.situations import GUARANTEED, KINDS, MIXED, NODE_GPUS, NODES, situation

QUEUES = (Queue(path="prod", guaranteed=8), Queue(path="lab", guaranteed=8), Queue(path="scavenge", guaranteed=0))


def test_situations_are_drawn_from_their_seed() -> None:
    """Whoever comes is within its guarantee, borrowers fit on the cluster, and every kind has its turn."""
    drawn = [situation(seed) for seed in range(200)]
    assert drawn == [situation(seed) for seed in range(200)]
    for one in drawn:
        assert one.nodes * one.gpus <= GUARANTEED[one.queue]
        assert 0 < sum(borrower.total for borrower in one.borrowers) <= NODES * NODE_GPUS
        assert all(borrower.queue != one.queue for borrower in one.borrowers)
    assert {one.kind for one in drawn} == {*KINDS, MIXED}


def job(job_id: str, queue: str, *placement: tuple[str, int]) -> Job:
    parts = tuple(NodeGpus(node=node, gpus=gpus) for node, gpus in placement)
    gpus = sum(part.gpus for part in parts)
    return Job(id=job_id, queue=queue, state=JobState.RUNNING, gpus_per_task=gpus, placement=parts, started_s=0)


def comes(*running: Job, tasks: int, gpus: int) -> bool:
    nodes = (Node(name="n1", gpus=8), Node(name="n2", gpus=8))
    new = Job(id="p", queue="prod", state=JobState.PENDING, gpus_per_task=gpus, tasks=tasks, tasks_per_node=1)
    return reclaimable(Snapshot(nodes=nodes, queues=QUEUES, jobs=(*running, new)), "p")


@pytest.mark.parametrize(
    ("running", "tasks", "gpus", "possible"),
    [
        ((job("s", "scavenge", ("n1", 8)), job("l", "lab", ("n2", 8))), 1, 8, True),
        ((job("s", "scavenge", ("n1", 8)), job("l", "lab", ("n2", 8))), 2, 1, False),
        ((job("a", "lab", ("n1", 8)), job("b", "lab", ("n2", 8))), 1, 8, True),
        ((job("a", "lab", ("n1", 8)), job("b", "lab", ("n2", 8))), 2, 1, False),
        ((job("a", "lab", ("n1", 8)), job("b", "lab", ("n2", 4)), job("c", "lab", ("n2", 4))), 1, 6, True),
        ((job("g", "lab", ("n1", 8), ("n2", 8)),), 1, 8, False),
    ],
    ids=["scavenger", "a node is lab's own", "one of two", "not both", "two halves or a whole", "a gang whole"],
)
def test_who_may_be_taken(running: tuple[Job, ...], tasks: int, gpus: int, possible: bool) -> None:
    """No queue falls under its guarantee for it."""
    assert comes(*running, tasks=tasks, gpus=gpus) is possible
