"""Guaranteed demand on a real Slurm: it runs within the grace and 5 s, whatever the borrowers of its GPUs do."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from slurmext.testing.situations import KINDS, situation
from slurmext.testing.stage import LATE_S, NotPlayed, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
SITUATIONS = 24


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd runs jobs as their users")
    with Stage(f"test-g-{os.getpid()}") as booted:
        yield booted


def test_guaranteed_jobs_start_in_time_and_no_law_is_broken(stage: Stage) -> None:
    """Every kind of borrower at least once: 24 random situations, checked from outside and by the invariant monitor."""
    late, kinds, played, seed = [], set(), 0, 0
    while played < SITUATIONS:
        assert seed < 3 * SITUATIONS, "most situations did not come about"
        drawn = situation(seed)
        seed += 1
        try:
            one = stage.play(drawn)
        except NotPlayed:
            continue
        played += 1
        kinds.add(drawn.kind)
        if one.start_s > LATE_S:
            late.append(f"{one.start_s:.1f} s: {drawn}\n{one.log}")
    assert not late, "\n".join(late)
    assert kinds >= set(KINDS)
    laws = json.loads(stage.slurmext("daemon", "status", "--json"))["invariants"]
    history = json.loads(stage.slurmext("history", "--kind", "invariant", "--json"))
    assert laws["broken"] == 0, history
    assert laws["checked"] > SITUATIONS
