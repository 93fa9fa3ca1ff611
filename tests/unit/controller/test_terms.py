"""Jobs that run under terms of their own: in a reservation, or alone on their nodes."""

from __future__ import annotations

from dataclasses import replace

from slurmext.model.job import JobState, NodeGpus
from slurmext.model.node import NodeState
from tests.unit.controller.site import Site, borrow_everything


def test_a_job_in_a_reservation_is_let_go_at_once_and_keeps_nobody_from_gpus(site: Site) -> None:
    """Slurm starts it where the reservation is and when: until then it has nothing, and is not tried again."""
    borrow_everything(site)
    job = site.slurm.submit("prod", reservation="course")
    site.slurm.stuck.add(job)
    site.rounds(60)
    assert site.done("release").count(job) == 1
    assert site.done("hold") == []
    assert site.state(job) is JobState.PENDING
    assert next(row.state for row in site.store.jobs() if row.job.job_id == job) == "released"
    assert not [line for line in site.slurm.log if line[0].startswith("signal") or line[0] == "requeue"]


def test_what_runs_in_a_reservation_counts_against_its_queue(site: Site) -> None:
    """Its GPUs are the queue's as all others are."""
    site.slurm.nodes = (*site.slurm.nodes[:3], replace(site.slurm.nodes[3], state=NodeState.DRAIN))
    job = site.slurm.submit("prod", reservation="course", required_nodes="n4")
    site.rounds(3)
    assert site.state(job) is JobState.RUNNING
    assert site.controller.last is not None
    seen = next(one for one in site.controller.last[0].snapshot.jobs if one.id == job)
    assert (seen.gpus, seen.placement) == (8, (NodeGpus(node="n4", gpus=8),))


def test_an_exclusive_job_waits_for_a_whole_node_and_has_it_for_itself(site: Site) -> None:
    """Slurm gives nobody else what it leaves idle there, and does not start it beside others."""
    small = [site.slurm.submit("research", 1, required_nodes=f"n{number}", preemptible=False) for number in range(1, 5)]
    site.rounds(3)
    alone = site.slurm.submit("research", 1, exclusive=True)
    site.rounds(5)
    assert site.state(alone) is JobState.PENDING
    assert alone not in site.done("release")
    site.slurm.end(small[2])
    site.rounds(3)
    assert site.slurm.records[alone].placement == (NodeGpus(node="n3", gpus=1),)
    assert site.controller.last is not None
    seen = next(one for one in site.controller.last[0].snapshot.jobs if one.id == alone)
    assert seen.placement == (NodeGpus(node="n3", gpus=8),)
    assert site.broken == []
