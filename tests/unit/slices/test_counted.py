"""What slices count together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.model.slice_state import SliceRecord
from slurmext.model.state import JobKey
from slurmext.service.slices.counted import by_job, by_queue, gpus_in

SEVENTH = SliceRecord(
    reservation="a", job=JobKey(job_id="1", submit_s=1), user="ann", queue="lab/one", node="n1", gpu="G0",
    profile="1g.10gb", milli=143, created_s=0, changed_s=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("sevenths", "gpus"), [(0, 0), (1, 0.14), (3, 0.43), (6, 0.86), (7, 1), (8, 1.14), (14, 2), (56, 8), (57, 8.15)]
)
def test_sevenths_of_gpus_add_up_to_whole_ones(sevenths: int, gpus: float) -> None:
    """Each was rounded up, and eight GPUs full of slices are eight."""
    assert gpus_in([SEVENTH] * sevenths) == gpus


def test_halves_are_halves() -> None:
    """What needed no rounding is not changed."""
    assert gpus_in([replace(SEVENTH, milli=500)] * 3) == 1.5
    assert gpus_in([replace(SEVENTH, milli=1000), SEVENTH]) == 1.14


def test_a_queue_has_what_those_below_it_have_and_a_job_its_newest_reservation() -> None:
    """A job that was requeued does not count its former slices."""
    again = replace(SEVENTH, id=2, reservation="b", milli=500)
    other = replace(SEVENTH, id=3, queue="lab", milli=250, job=JobKey(job_id="2", submit_s=1))
    assert by_job([again, replace(SEVENTH, id=1), other]) == {SEVENTH.job: 0.5, other.job: 0.25}
    assert by_queue([again, other]) == {"lab/one": 0.5, "lab": 0.75}
