"""Every scenario in this folder comes out as it says, keeps every law, and comes to rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from slurmext.testing.scenario import Scenario, check, load

SCENARIOS = [scenario for path in sorted(Path(__file__).parent.glob("*.yaml")) for scenario in load(path)]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_scenario(scenario: Scenario) -> None:
    """The plan is the expected one, no law is broken, and after it the world comes to rest."""
    assert check(scenario) == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_a_title_is_a_sentence_that_stands_alone(scenario: Scenario) -> None:
    """docs/reference/scenarios.md lists them: none leans on the one before it."""
    first, *rest = scenario.name.split()
    assert len(rest) >= 3, scenario.name
    assert first not in {"and", "but", "nor", "never", "unless", "until", "then", "otherwise"}, scenario.name
    assert not scenario.name.endswith("."), scenario.name


def test_titles_are_told_apart() -> None:
    """Each name once, so that a failure names one situation."""
    names = [scenario.name for scenario in SCENARIOS]
    assert len(names) == len(set(names)) >= 80
