"""Dependencies as squeue prints them."""

from __future__ import annotations

import pytest

from slurmext.adapters.slurm_cli.dependency import followers, waits
from slurmext.model.cluster import JobRecord
from slurmext.model.job import JobState

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


def test_of_jobs_of_one_name_the_first_goes_alone() -> None:
    """--dependency=singleton: Slurm does not look at held jobs, so it is looked at here."""

    def job(number: str, state: JobState = JobState.PENDING, user: str = "ann", name: str = "one") -> JobRecord:
        return JobRecord(slurm_id=number, state=state, user=user, name=name)

    assert followers([job("9"), job("10"), job("7_2"), job("7_10")]) == {"9", "10", "7_10"}
    assert followers([job("9"), job("10", JobState.RUNNING)]) == {"9"}
    assert followers([job("9"), job("10", user="ben"), job("11", name="two")]) == set()
    assert waits("singleton(unfulfilled)", ACTIVE, ENDED, follows=True)
    assert not waits("singleton(unfulfilled)", ACTIVE, ENDED, follows=False)
    assert waits("singleton(unfulfilled),afterok:1(unfulfilled)", ACTIVE, ENDED, follows=False)
