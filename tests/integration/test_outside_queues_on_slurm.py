"""Jobs that no queue takes on a real Slurm: they are left alone, counted, and take nothing that was freed for others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.conftest import Site

pytestmark = pytest.mark.cluster


def submit_het(site: Site, user: str) -> str:
    argv = ["sbatch", "--parsable", "--gres=gpu:2", ":", "--gres=gpu:1", "--wrap", "sleep 300"]
    return site.cluster.run(argv, user=user).stdout.strip()


def test_a_heterogeneous_job_starts_by_itself_and_its_gpus_are_taken(site: Site) -> None:
    """Nothing holds it; a job that needs all GPUs of every node waits."""
    het = submit_het(site, "bob")
    site.until(lambda: site.state(f"{het}+1") == "RUNNING")
    whole = site.submit("alice", "--queue=research", "--nodes=4", "--gres=gpu:8")
    site.until(lambda: site.reason(whole) == "NO_NODE_FITS")
    site.cluster.run(["scancel", het])
    site.until_running(whole)


def test_a_job_without_gpus_that_names_a_queue_starts_at_once(site: Site) -> None:
    """There is nothing in the queue for it to wait for, and nobody who would release it."""
    job = site.cluster.run(["sbatch", "--parsable", "--queue=research", "--wrap", "true"], user="alice").stdout.strip()
    site.until(lambda: site.state(job) == "COMPLETED")


def test_gpus_freed_for_a_job_are_not_taken_by_one_outside_all_queues(site: Site) -> None:
    """Not even when Slurm would ask that one first."""
    site.fill()
    het = submit_het(site, "bob")
    site.cluster.run(["scontrol", "update", f"JobId={het}", "Priority=4294967000"])
    prod = site.submit("bob", "--queue=prod", "--gres=gpu:8")
    site.until_running(prod)
    assert site.state(f"{het}+0") == "PENDING"
    assert len([row for row in site.store.jobs(active=True) if row.preempted]) <= 1


def test_explain_on_a_live_cluster_estimates_the_start(site: Site) -> None:
    """By the daemon's own look ahead, in a process of its own."""
    full = [site.submit("alice", "--queue=research", "--gres=gpu:8", f"--time={10 + n}") for n in range(4)]
    for job in full:
        site.until_running(job)
    waits = site.submit("alice", "--queue=research", "--gres=gpu:8", "--time=5")
    site.until_known(waits)
    site.until(lambda: site.reason(waits) == "QUEUE_MAX")
    answer = json.loads(site.slurmext("job", "explain", waits, "--json"))
    first_end = int(site.store.jobs(job_ids=[full[0]])[0].start_s or 0) + 600
    assert answer["estimate"]["how"] == "simulated"
    assert abs(answer["estimate"]["start_s"] - first_end) <= 2
    assert [reason["code"] for reason in answer["reasons"]][-1] == "QUEUE_MAX"
    share = json.loads(site.slurmext("queue", "explain", "research", "--json"))["account"]
    assert (share["uses"], share["share"]) == (32, 32)
