"""The controller's work on slices, over a Slurm and agents in memory."""

from __future__ import annotations

from site_of_slices import Site


def test_a_job_gets_its_slice_on_a_gpu_that_is_taken_for_it() -> None:
    site = Site()
    job = site.submit(slice_profile="1g.10gb")
    site.steps(8)
    assert site.state(job) == "RUNNING", site.why()
