"""Small jobs move together, and elastic jobs make room, on a real Slurm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import Site

pytestmark = pytest.mark.cluster


def scattered(site: Site) -> dict[str, str]:
    """Three savers of two GPUs, each on a node of its own: what held the rest of those nodes has ended."""
    found: dict[str, str] = {}
    for _ in range(3):
        small = site.submit_saver("alice", "--queue=research", "--gres=gpu:2")
        site.until_running(small)
        filler = site.submit("alice", "--queue=research", "--gres=gpu:6")
        site.until_running(filler)
        found[small] = filler
    site.until(lambda: all("ready" in site.output("alice", small) for small in found))
    for filler in found.values():
        site.cluster.run(["scancel", filler])
    site.until_ended(*found.values())
    return found


def test_defrag_moves_small_jobs_together_and_leaves_whole_nodes_free(site: Site) -> None:
    """The dry run says who would move; then two savers save, move to the third's node and resume at their step."""
    small = list(scattered(site))
    before = {job: site.job(job).nodes for job in small}
    assert len({tuple(nodes) for nodes in before.values()}) == 3
    shown = json.loads(site.slurmext("defrag", "--dry-run", "--json"))
    assert len(shown) == 2
    assert {job: site.job(job).nodes for job in small} == before, "a dry run does nothing"
    site.slurmext("defrag")
    moved = {row["job"] for row in shown}
    site.until(lambda: all(site.job(job).restarts == 1 and site.state(job) == "RUNNING" for job in moved))
    assert len({tuple(site.job(job).nodes) for job in small}) == 1
    assert [site.job(job).restarts for job in small if job not in moved] == [0]
    site.until(lambda: all("resumed at" in site.output("alice", job) for job in moved))
    reasons = {line.victim.job_id: line.reason for line in site.store.preemptions(limit=2)}
    assert reasons == dict.fromkeys(moved, "DEFRAGMENT")
    site.slurmext("defrag")
    site.until(lambda: not site.store.open_actions())
    assert sum(site.job(job).restarts for job in small) == 2, "nothing is left to gain"


def test_an_elastic_job_makes_room_and_goes_on_with_fewer_nodes(site: Site) -> None:
    """It holds all four nodes and needs two: prod's single node comes out of its surplus."""
    elastic = site.submit_saver(
        "alice", "--queue=research", "-N4", "--ntasks-per-node=1", "--gres=gpu:8", "--gang-min=2"
    )
    site.until(lambda: "ready" in site.output("alice", elastic))
    assert len(site.job(elastic).nodes) == 4
    single = site.submit("bob", "--queue=prod", "--gres=gpu:8")
    site.until_running(single)
    site.until(lambda: site.state(elastic) == "RUNNING" and len(site.job(elastic).nodes) == 3)
    assert site.job(elastic).restarts == 1
    site.until(lambda: "resumed at" in site.output("alice", elastic))


def test_an_elastic_job_starts_on_what_is_idle(site: Site) -> None:
    """One node is taken: a job that would like four runs on three at once."""
    single = site.submit("bob", "--queue=prod", "--gres=gpu:8")
    site.until_running(single)
    elastic = site.submit("alice", "--queue=research", "-N4", "--ntasks-per-node=1", "--gres=gpu:8", "--gang-min=2",
                          script="srun printenv SLURMD_NODENAME; sleep 1")  # fmt: skip
    site.until_ended(elastic)
    assert len(set(site.output("alice", elastic).split())) == 3
