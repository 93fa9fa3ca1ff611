"""Heterogeneous jobs on a real Slurm: no queue takes them, and yet they save near their time limit and go on."""

from __future__ import annotations

import json
from collections import Counter
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
RANKS = """\
import os, time
from slurmext.checkpoint import Checkpointer
state = {"own": [os.environ["SLURM_PROCID"]]}
ckpt = Checkpointer(state, every_s=None)
step = ckpt.restore() or 0
print("rank", ckpt.place.rank, "of", ckpt.place.world, "from", step, state["own"], flush=True)
last = step + 20 if step else 10**6
while step < last:
    step += 1
    time.sleep(0.05)
    if ckpt.due(step):
        ckpt.save(step)
        print("saved", step, flush=True)
print("done", flush=True)
"""


def submit(site: Site, *options: str) -> str:
    """Three ranks over two components, the first without a GPU: each on a node of its own, as Slurm has it."""
    home = site.cluster.home("alice")
    (home / "ranks.py").write_text(RANKS)
    (home / "het.sh").write_text(f"#!/bin/sh\nsrun --het-group=0,1 {programs.python_with('numpy')} {home}/ranks.py\n")
    argv = ["sbatch", "--parsable", "--output=%j.out", *options, "-n1", ":", *options, "-n2", "--gres=gpu:1",
            str(home / "het.sh")]  # fmt: skip
    job = site.cluster.run(argv, user="alice", env=programs.environment(site)).stdout.strip()
    site.until(lambda: site.output("alice", job).count("from 0") == 3)
    return job


@pytest.mark.slow  # a time limit is a minute at least
@pytest.mark.timeout(300)
def test_a_heterogeneous_job_goes_on_in_another_run_before_its_limit(site: Site) -> None:
    """All components save one step, are requeued together and at once start again where they were; nothing is held."""
    job = submit(site, "--ckpt=USR1@8,chain", "--time=1")
    started_s = site.job(f"{job}+0").start_s
    site.until(lambda: site.output("alice", job).count("done") == 3, timeout_s=90)
    site.until(lambda: site.state(f"{job}+0") == "COMPLETED")
    text = site.output("alice", job)
    saved = Counter(line.split()[1] for line in text.splitlines() if line.startswith("saved"))
    assert set(saved.values()) == {3}, text
    assert len(saved) <= MOST_SAVES, text
    step = max(saved, key=int)
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
