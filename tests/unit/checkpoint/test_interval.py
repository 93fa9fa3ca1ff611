"""How often to save: what the answer rests on, and what it is worth over a month that goes wrong."""

from __future__ import annotations

import math

import pytest

from slurmext.checkpoint.goodput import goodput
from slurmext.checkpoint.interval import NODE_MTBF_S, Failures, Interval, loss, optimum_s


@pytest.mark.parametrize(("cost_s", "mtbf_s"), [(0.1, 3600), (5, 10_800), (60, 10_800), (600, 86_400)])
def test_the_optimum_is_one(cost_s: float, mtbf_s: float) -> None:
    """No interval a tenth longer or shorter loses less than Daly's, counting a failure's whole loss."""

    def lost(every_s: float) -> float:  # the exact expected time for a second of training, memoryless failures
        return mtbf_s * math.expm1((every_s + cost_s) / mtbf_s) / every_s

    best = optimum_s(cost_s, mtbf_s)
    assert lost(best) <= min(lost(best * 0.9), lost(best * 1.1))


def test_saving_that_costs_more_than_failing_is_done_once_per_failure() -> None:
    """The expansion does not hold there, and the interval stays finite."""
    assert optimum_s(1000, 100) == 100


def test_nothing_known_means_the_assumption_and_more_nodes_mean_shorter_intervals() -> None:
    """A job of 100 nodes fails 100 times as often as one of a node, so it saves ten times as often."""
    one, many = Interval(nodes=1), Interval(nodes=100, least_s=1)
    assert one.mtbf_s == pytest.approx(NODE_MTBF_S)
    assert many.mtbf_s == pytest.approx(NODE_MTBF_S / 100)
    assert Interval(nodes=1, most_s=1e9).every_s / many.every_s == pytest.approx(10, rel=0.02)


def test_a_sites_own_failures_outweigh_the_assumption() -> None:
    """60 failures in 60,000 node hours: a node fails every thousand hours here."""
    seen = Failures(count=60, node_s=60_000 * 3600.0)
    assert seen.mtbf_s(1) == pytest.approx(1000 * 3600, rel=0.1)


@pytest.mark.parametrize("text", ["", "3", "x/1", "nan/5", "-1/5", "1/inf"])
def test_an_unusable_record_of_failures_is_none(text: str) -> None:
    """What stands in the environment may be anything."""
    assert Failures.told({"SLURMEXT_FAILURES": text}) == Failures()


def test_a_job_finds_its_size_and_the_sites_failures_in_its_environment() -> None:
    """As slurmext's task prolog puts them there."""
    job = Interval.of_job({"SLURM_JOB_NUM_NODES": "4", "SLURMEXT_FAILURES": "9/9000000"})
    assert job.reasons()["nodes"] == 4
    assert job.reasons()["failures"] == 9


def test_one_slow_save_changes_nothing_and_a_disk_that_stays_slow_does() -> None:
    """The median of the last costs counts."""
    job = Interval(most_s=1e9)
    job.cost(2.0)
    assert job.cost_s == 2.0
    for _ in range(7):
        job.cost(1.0)
    before = job.every_s
    job.cost(100.0)
    assert job.every_s == before
    for _ in range(4):
        job.cost(100.0)
    assert job.every_s > 5 * before
    for nonsense in (math.nan, math.inf, -5.0):
        job.cost(nonsense)
    assert job.cost_s == 100.0


@pytest.mark.parametrize("cost_s", [0.3, 5.0, 60.0])
def test_over_a_month_it_is_as_good_as_knowing_the_future(cost_s: float) -> None:
    """A failure every three hours on average, costs that drift, a failure rate that was wrong by three to begin with:
    within 0.3 % of the optimum, and never behind a fixed interval by more.
    """
    month = goodput(cost_s=cost_s, seeds=range(4))
    assert month.gap <= 0.003
    assert month.auto >= max(month.fixed.values()) - 0.003 * month.optimum
    assert loss(optimum_s(cost_s, 10_800), cost_s, 10_800) == pytest.approx(1 - month.optimum, abs=0.03)


@pytest.mark.parametrize("stretch", [0.5, 2.0])
def test_the_simulation_tells_a_wrong_interval_from_a_right_one(stretch: float) -> None:
    """Saving twice or half as often as one should costs more than the 0.3 % that are promised."""
    assert goodput(stretch=stretch, seeds=range(4)).gap > 0.003


def test_saves_in_memory_have_an_interval_of_their_own_and_stretch_that_of_the_directory() -> None:
    """As long as another node has them: most failures leave it what was saved there."""
    interval = Interval(nodes=128, first_cost_s=5.0)
    alone_s = interval.every_s
    for on_peer in (False, True):
        interval.kept(0.2, on_peer=on_peer)
        assert interval.memory_every_s == pytest.approx(optimum_s(0.2, interval.mtbf_s))
        assert (interval.every_s > 2 * alone_s) == on_peer
    interval.not_kept()
    assert interval.every_s == alone_s
