"""Room for slices on a real Slurm: GPUs taken back from borrowers, jobs that move because they agreed to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slurmext.service.reason_history import reasons_in
from tests.integration.conftest import SLICED_POLICY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Site

pytestmark = pytest.mark.cluster

SAYS = 'echo "slice $CUDA_VISIBLE_DEVICES"; sleep 3'
TWO_GPUS = """\
version: 1
settings: {default_queue: research, grace_s: 8, requeue_delay_s: 1}
queues:
  research: {guaranteed: 8}
slices: {empty_for_s: 4, keep_for_s: 1, pools: {any: {max: 2}}}
"""


@pytest.fixture
def of_two(sliced: Site) -> Iterator[Site]:
    """The same cluster, of whose GPUs two may be cut."""
    sliced.apply(TWO_GPUS)
    yield sliced
    sliced.apply(SLICED_POLICY)


def gpus_of(site: Site, *jobs: str) -> list[str]:
    """The GPU each of these jobs has its slice on."""
    on = {one.job.job_id: one.gpu for one in site.store.slices()}
    return [on[job] for job in jobs]


def test_guaranteed_slices_get_a_gpu_back_from_a_job_that_borrows_it(sliced: Site) -> None:
    """With all GPUs in whole use one borrower saves and leaves, and what was its GPU is cut; nobody else is touched."""
    borrowers = [sliced.submit_saver("alice", "--queue=research", "--gres=gpu:1", "--mem=10") for _ in range(8)]
    sliced.until_running(*borrowers)
    sliced.until(lambda: all("ready" in sliced.output("alice", job) for job in borrowers))
    parts = [sliced.submit("bob", "--queue=prod", f"--gpu-slice={profile}", "--mem=10", script=SAYS)
             for profile in ("1g.10gb", "3g.40gb")]  # fmt: skip
    sliced.until_ended(*parts)
    (row,) = sliced.store.jobs(job_ids=[parts[0]], active=False)
    assert "RECLAIMING" in [code for code, _, _ in reasons_in(row.reasons)]
    assert [sliced.state(job) for job in parts] == ["COMPLETED"] * 2
    assert all("slice MIG-" in sliced.output("bob", job) for job in parts)
    (left,) = [job for job in borrowers if "saved" in sliced.output("alice", job)]
    (line,) = [line for line in sliced.store.preemptions() if line.victim.job_id in borrowers]
    assert (line.victim.job_id, line.reason, line.gpus, line.to_queue) == (left, "RECLAIM_GUARANTEE", 1, "prod")
    assert line.beneficiary in parts
    # the slices are gone, the GPU is whole again, and the borrower goes on where it was
    sliced.until(lambda: "resumed at" in sliced.output("alice", left))


def test_a_job_that_agreed_moves_so_that_a_large_slice_fits(of_two: Site) -> None:
    """Each of two GPUs is half full: one of the two jobs saves, is requeued to the other GPU and resumes there."""
    halves = [of_two.submit_saver("alice", "--gpu-slice=3g.40gb", "--mem=10") for _ in range(4)]
    of_two.until_running(*halves)
    of_two.until(lambda: all("ready" in of_two.output("alice", job) for job in halves))
    first = gpus_of(of_two, *halves)
    stay = [next(job for job, gpu in zip(halves, first, strict=True) if gpu == which) for which in sorted(set(first))]
    assert len(stay) == 2
    of_two.cluster.run(["scancel", *(job for job in halves if job not in stay)])
    of_two.until(lambda: len(of_two.store.slices()) == 2)
    before = gpus_of(of_two, *stay)
    large = of_two.submit("bob", "--gpu-slice=7g.80gb", "--mem=10", script=SAYS)
    of_two.until_ended(large)
    assert of_two.state(large) == "COMPLETED"
    (moved,) = [job for job in stay if "saved" in of_two.output("alice", job)]
    of_two.until(lambda: "resumed at" in of_two.output("alice", moved))
    (other,) = {*before} - {before[stay.index(moved)]}
    places = [one.gpu for one in of_two.store.slices(active=False, job_ids=[moved])]
    assert places[:2] == [before[stay.index(moved)], other]
    (line,) = [line for line in of_two.store.preemptions() if line.victim.job_id == moved]
    assert (line.reason, line.beneficiary) == ("DEFRAGMENT", large)
