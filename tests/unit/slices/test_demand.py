"""What jobs of slices ask for, over time."""

from __future__ import annotations

import pytest
from site_of_slices import Site

from slurmext.model.slicing import SliceJob, SliceNeed
from slurmext.service.slices.demand import HALF_LIFE_S, MOST_KINDS, Demand


def job(number: int, profile: str, **more: object) -> SliceJob:
    return SliceJob(id=str(number), queue="q", need=SliceNeed(profile=profile), **more)  # type: ignore[arg-type]


def test_each_job_counts_once_and_less_as_time_goes_on() -> None:
    """However often it is looked at; a kind that comes no more fades away."""
    demand = Demand()
    first = [job(1, "1g.10gb", cpus=4), job(2, "1g.10gb", cpus=4), job(3, "3g.40gb")]
    demand.see(first, 1000)
    mix = demand.see(first, 1000)
    assert [(kind.need.profile, kind.weight, kind.cpus) for kind in mix] == [("1g.10gb", 2, 4), ("3g.40gb", 1, 0)]
    mix = demand.see([job(4, "3g.40gb")], 1000 + HALF_LIFE_S)
    assert [(kind.need.profile, kind.weight) for kind in mix] == [("3g.40gb", 1.5), ("1g.10gb", 1)]
    assert demand.see([], 1000 + 40 * HALF_LIFE_S) == ()


def test_few_kinds_are_remembered() -> None:
    """Those that come most."""
    demand = Demand()
    mix = demand.see([job(n, f"{n}g") for n in range(100)] + [job(200 + n, "7g") for n in range(3)], 1)
    assert len(mix) == MOST_KINDS
    assert mix[0].weight == pytest.approx(4)


def test_the_planner_goes_by_what_came_when_nobody_waits() -> None:
    """Jobs that are over still say what is likely to come."""
    site = Site()
    over = [site.submit(slice_profile="3g.40gb") for _ in range(2)]
    site.steps(8)
    for each in over:
        site.end(each)
    site.steps(3)
    snapshot, _ = site.controller.slices.last
    assert [(kind.need.profile, round(kind.weight)) for kind in snapshot.mix] == [("3g.40gb", 2)]
    assert snapshot.jobs == ()
