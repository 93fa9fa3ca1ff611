"""How fast a model is said to come, by what is there at each look."""

from __future__ import annotations

import pytest

from slurmext.agent.staging.arrivals import Arrivals

MIB = 1 << 20
RUN = 4 * MIB


def told(bits_per_s: float, *, until_s: float, run: int, slow_from_s: float = 1e9) -> list[tuple[float, float]]:
    """(when, rate) of looks each quarter of a second at a link that brings whole runs, a tenth as fast after a while."""
    arrivals, found = Arrivals(0.0, 0), list[tuple[float, float]]()
    for look in range(1, int(until_s * 4)):
        now_s = look / 4
        came = bits_per_s / 8 * (min(now_s, slow_from_s) + max(0.0, now_s - slow_from_s) / 10)
        found.append((now_s, arrivals.rate(int(came // run) * run, now_s)))
    return found


@pytest.mark.parametrize("run", [1 << 16, RUN])
def test_a_link_that_became_slow_is_told_within_a_moment_and_stays_so(run: int) -> None:
    """Also when seconds lie between two runs: neither is it said to be fast again when one arrives."""
    rates = told(100e6, until_s=12, run=run, slow_from_s=4.0)
    assert all(rate > 50e6 for at_s, rate in rates if 1 < at_s < 4)
    assert all(rate < 50e6 for at_s, rate in rates if at_s > 5.5)
    assert min(rate for _, rate in rates[4:]) > 5e6


def test_a_slow_link_that_was_planned_as_such_is_as_fast_as_planned() -> None:
    """Runs are far between, and that is right."""
    assert all(rate > 5e6 for at_s, rate in told(10e6, until_s=20, run=RUN) if at_s > 4)


def test_nothing_is_said_of_a_link_that_begins() -> None:
    arrivals = Arrivals(0.0, 7 * MIB)
    assert [arrivals.rate(7 * MIB, look / 4) for look in range(1, 12)] == [0.0] * 11
    assert arrivals.rate(8 * MIB, 3.0) == pytest.approx(8 * MIB / 0.25)


def test_what_was_given_up_and_comes_again_begins_anew() -> None:
    arrivals = Arrivals(0.0, 8 * MIB)
    assert arrivals.rate(0, 1.0) == 0.0
    assert arrivals.rate(MIB, 2.0) == pytest.approx(8 * MIB)
