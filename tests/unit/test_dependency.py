"""Dependencies as squeue prints them."""

from __future__ import annotations

import pytest

from slurmext.adapters.slurm_cli.dependency import waits

ACTIVE = {"1", "7_2"}
ENDED = {"2": "COMPLETED", "3": "FAILED", "7_1": "COMPLETED", "8_1": "COMPLETED", "8_2": "FAILED", "9_1": "COMPLETED"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("afterok:2(unfulfilled)", False),
        ("afterok:1(unfulfilled)", True),
        ("afterok:3(unfulfilled)", True),
        ("afternotok:3(unfulfilled)", False),
        ("afternotok:2(unfulfilled)", True),
        ("afterany:3(unfulfilled)", False),
        ("afterany:2(unfulfilled),afterany:1(unfulfilled)", True),
        ("afterany:2(unfulfilled),afterok:2(unfulfilled)", False),
        ("afterany:1(unfulfilled)?afterok:2(unfulfilled)", False),
        ("afterok:7_*(unfulfilled)", True),
        ("afterok:8_*(unfulfilled)", True),
        ("afterany:8_*(unfulfilled)", False),
        ("afterok:9_*(unfulfilled)", False),
        ("afterok:8_1(unfulfilled)", False),
        ("afterok:99(unfulfilled)", True),
        ("afterok:2(failed)", True),
        ("singleton(unfulfilled)", True),
        ("after:2+5(unfulfilled)", True),
        ("afterburstbuffer:2(unfulfilled)", True),
    ],
)
def test_only_what_certainly_ended_as_asked_is_fulfilled(text: str, expected: bool) -> None:
    """Whatever else a term asks for is left to Slurm."""
    assert waits(text, ACTIVE, ENDED) is expected
