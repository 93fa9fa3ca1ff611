"""Jobs of --ckpt=…,chain on a real Slurm: they outlive their time limit, and end when their program does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slurmext.service import chain

if TYPE_CHECKING:
    from tests.integration.conftest import Site

pytestmark = pytest.mark.cluster

IGNORES = "trap '' USR1; sleep 300"


@pytest.mark.slow  # a time limit is a minute at least, and Slurm looks at them twice a minute
def test_a_chained_job_goes_on_in_another_run_before_its_limit(site: Site) -> None:
    """Told to save before its minute is over, requeued and started at once; one that saves nothing gets its minute."""
    job = site.submit_saver("alice", "--queue=research", "--gres=gpu:8", "--time=1", "--ckpt=auto,chain")
    deaf = site.submit("alice", "--queue=research", "--gres=gpu:8", "--time=1", "--ckpt=auto,chain", script=IGNORES)
    site.until_running(job, deaf)
    started_s = site.job(job).start_s
    site.until(lambda: "resumed at" in site.output("alice", job), timeout_s=100)
    again = site.job(job)
    assert (again.state, again.restarts) == ("RUNNING", 1)
    assert again.start_s - started_s < 60
    (link,) = [action for action in site.store.actions(job_id=job) if chain.is_link(action)]
    assert link.reason == chain.REASON
    assert site.store.preemptions(job_id=job) == []
    site.until(lambda: site.state(deaf) == "TIMEOUT", timeout_s=120)
    assert site.job(deaf).restarts == 0
    assert "another would only repeat it" in site.slurmext("job", "explain", deaf)
    assert {job, deaf}.isdisjoint(failure.job.job_id for failure in site.store.failures())
    site.cluster.run(["scancel", job])
