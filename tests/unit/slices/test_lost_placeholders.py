"""Placeholder jobs that somebody ended, over a Slurm and agents in memory."""

from __future__ import annotations

import pytest
from site_of_slices import POLICY, Site

from slurmext.model.slicing import GpuUse


@pytest.mark.parametrize("gpus", [1, 3])
def test_a_gpu_with_slices_is_held_again_before_anybody_gets_it(gpus: int) -> None:
    """Its jobs go on; a whole-GPU job that waits for a GPU does not get that one. Other GPUs go back afterwards."""
    site = Site(POLICY, nodes=1, gpus=gpus)
    part = site.submit(slice_profile="1g.10gb")
    site.steps(8)
    (before,) = site.store.holds()
    whole = [site.slurm.submit("prod", gpus=1) for _ in range(gpus)]
    site.step()
    site.slurm.end(before.job_id, "CANCELLED")
    site.placed.pop(before.job_id)
    for _ in range(12):
        site.step()
        taken = [gpu for placed in site.placed.values() for gpu in placed]
        assert len(taken) == len(set(taken))
    assert site.state(part) == "RUNNING"
    assert [site.slurm.records[job].restarts for job in whole] == [0] * gpus
    holding = [hold for hold in site.store.holds() if hold.gpu == before.gpu]
    assert len(holding) == 1, site.why()
    assert sum(site.state(job) == "RUNNING" for job in whole) <= gpus - 1
    site.end(part)
    site.steps(70, 10)
    assert set(site.agents.use.values()) == {GpuUse.WHOLE}
    assert site.store.holds() == []
