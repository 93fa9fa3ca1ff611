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
