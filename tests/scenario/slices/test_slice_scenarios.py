"""Every slice scenario in this folder comes out as it says, and keeps every law."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurmext.testing.slice_scenario import SliceScenario, check, load

SCENARIOS = [scenario for path in sorted(Path(__file__).parent.glob("*.yaml")) for scenario in load(path)]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_slice_scenario(scenario: SliceScenario) -> None:
    """The plan is the expected one, no law is broken, and the order of the lists changes nothing."""
    assert check(scenario) == []


def test_titles_are_told_apart() -> None:
    """Each name once, so that a failure names one situation."""
    names = [scenario.name for scenario in SCENARIOS]
    assert len(names) == len(set(names))
