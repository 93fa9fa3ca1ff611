"""Heterogeneous jobs on a real Slurm: no queue takes them, and yet they save near their time limit and go on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from slurmext.model.state import ActionState
from slurmext.service import chain
from tests.integration import programs

if TYPE_CHECKING:
    from tests.integration.conftest import Site

pytestmark = pytest.mark.cluster

MOST_SAVES = 2
"""srun passes on the signal that it gets with the script: so soon after the first, it may mean a second save."""


def submit(site: Site, *options: str, runs: int) -> str:
    """Three ranks over two components, the first without a GPU: each on a node of its own, as Slurm has it. It ends
    soon after so many restarts.
    """
    home = site.cluster.home("alice")
    (home / "ranks.py").write_text(programs.RANKS)
    (home / "het.sh").write_text(f"#!/bin/sh\nsrun --het-group=0,1 {programs.python_with('numpy')} {home}/ranks.py\n")
    argv = ["sbatch", "--parsable", "--output=%j.out", *options, "-n1", ":", *options, "-n2", "--gres=gpu:1",
            str(home / "het.sh")]  # fmt: skip
    job = site.cluster.run(argv, user="alice", env=programs.environment(site) | {"RUNS": str(runs)}).stdout.strip()
    site.until(lambda: site.output("alice", job).count("from 0") == 3)
    return job


@pytest.mark.slow  # a time limit is a minute at least
@pytest.mark.timeout(300)
def test_a_heterogeneous_job_goes_on_in_another_run_before_its_limit(site: Site) -> None:
    """All components save one step, are requeued together and at once start again where they were; nothing is held."""
    job = submit(site, "--ckpt=USR1@8,chain", "--time=1", runs=1)
    started_s = site.job(f"{job}+0").start_s
    site.until(lambda: site.output("alice", job).count("done") == 3, timeout_s=90)
    site.until(lambda: site.state(f"{job}+0") == "COMPLETED")
    text = site.output("alice", job)
    saved = steps(site, job)
    assert saves(site, job) == {3}, text
    assert len(saved) <= MOST_SAVES, text
    step = saved[-1]
    assert all(f"rank {rank} of 3 from {step} ['{rank}']" in text for rank in range(3)), text
    assert "no copies in memory" not in text, "the agents know the tasks of every component"
    for part in (f"{job}+0", f"{job}+1"):
        assert site.job(part).restarts == 1
        assert 20 < site.job(part).start_s - started_s < 55
    (link,) = [action for action in site.store.actions(job_id=job) if chain.is_link(action)]
    assert (link.reason, link.state) == (chain.REASON, ActionState.DONE)
    assert site.store.preemptions(job_id=job) == []
    assert [int(name) for name in saved] == sorted(record.step for record in site.store.checkpoints(job_id=job))
    told = site.slurmext("job", "explain", f"{job}+1")
    assert "Left to Slurm" in told and "--ckpt=USR1@8,chain: near its time limit" in told, told
    assert "checkpoint" in told
    listed = json.loads(site.slurmext("ckpt", "list", "--job", f"{job}+0", "--json"))
    assert [row["step"] for row in listed] == sorted(map(int, saved), reverse=True)
    assert site.slurmext("ckpt", "why", f"{job}+0").startswith(f"job {job} ")


@pytest.mark.slow  # two requeues of Slurm's own
@pytest.mark.timeout(300)
def test_a_heterogeneous_job_outlives_the_nodes_of_its_components(site: Site) -> None:
    """Whichever is lost: all components run again, from what they saved, and the job ends as one that did its work."""
    job = submit(site, "--ckpt=auto", runs=2)
    try:
        for runs, part in enumerate(("1", "0"), 1):
            site.cluster.run(["scancel", "--signal=USR1", "--full", job])
            site.until(lambda runs=runs: saves(site, job) == {3} and len(steps(site, job)) >= runs)
            node = next(row.split()[1] for row in site.cluster.out("squeue", "--noheader", "--format=%i %N").splitlines()
                        if row.startswith(f"{job}+{part} "))  # fmt: skip
            site.scontrol("update", f"NodeName={node}", "State=DOWN", "Reason=lost")
            site.until(lambda runs=runs: site.output("alice", job).count("] of run") == 3 * (runs + 1), timeout_s=60)
            site.scontrol("update", f"NodeName={node}", "State=RESUME")
        site.until(lambda: site.state(f"{job}+0") == "COMPLETED")
        text = site.output("alice", job)
        assert text.count(" from 0 ") == 3, text
        assert {site.job(f"{job}+0").restarts, site.job(f"{job}+1").restarts} == {2}
    finally:
        for name in site.cluster.node_names:
            site.scontrol("update", f"NodeName={name}", "State=RESUME")


def steps(site: Site, job: str) -> list[str]:
    """Those that were saved, in order."""
    lines = site.output("alice", job).splitlines()
    return list(dict.fromkeys(line.split()[1] for line in lines if line.startswith("saved")))


def saves(site: Site, job: str) -> set[int]:
    """By how many ranks each of them was."""
    text = site.output("alice", job)
    return {text.count(f"saved {step}\n") for step in steps(site, job)}
