"""Small jobs move together by the policy's schedule, or when an admin asks."""

from __future__ import annotations

from datetime import UTC, datetime

from slurmext.model.job import NodeGpus
from slurmext.model.plan import Move, Plan, Reason
from slurmext.model.policy import Policy
from slurmext.model.snapshot import Defragment
from slurmext.policy.defragment import PATIENCE_S
from slurmext.service.tidying import Tidying

WISH = Defragment(worth_s=900)
NIGHTLY = Policy(version=1, defragment=WISH, defragment_schedule="0 3 * * *", timezone="Europe/Berlin")
NOON_S = datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp()
NIGHT_S = datetime(2026, 7, 2, 1, tzinfo=UTC).timestamp()
"""Three in the morning in Berlin, where it is summer."""


def moved(beneficiary: str = "") -> Plan:
    here, there = (NodeGpus(node="n1", gpus=1),), (NodeGpus(node="n2", gpus=1),)
    return Plan(move=(Move(job="1", source=here, target=there, beneficiary=beneficiary, reason=Reason.DEFRAGMENT),))


def test_the_schedule_is_followed_in_the_policys_time_zone() -> None:
    """Not at the daemon's start, then at three in the morning, then the night after."""
    tidying = Tidying()
    assert tidying.wish(NIGHTLY, NOON_S) is None
    assert tidying.next_s(NIGHTLY, NOON_S) == NIGHT_S
    assert tidying.wish(NIGHTLY, NIGHT_S - 1) is None
    assert tidying.wish(NIGHTLY, NIGHT_S + 0.5) == WISH
    assert tidying.next_s(NIGHTLY, NIGHT_S + 1) == NIGHT_S + 86400


def test_a_wish_waits_for_its_chance_and_lapses() -> None:
    """While others are being evicted nothing moves; some time later the wish is given up."""
    tidying = Tidying()
    tidying.wish(NIGHTLY, NOON_S)
    assert tidying.wish(NIGHTLY, NIGHT_S) == WISH
    tidying.saw(Plan())
    tidying.saw(moved(beneficiary="7"))
    assert tidying.wish(NIGHTLY, NIGHT_S + PATIENCE_S - 1) == WISH
    assert tidying.wish(NIGHTLY, NIGHT_S + PATIENCE_S) is None


def test_a_wish_that_came_true_is_over() -> None:
    """One set of moves a time, or jobs would never come to rest."""
    tidying = Tidying()
    tidying.ask()
    assert tidying.wish(Policy(version=1, defragment=WISH), NOON_S) == WISH
    tidying.saw(moved())
    assert tidying.wish(Policy(version=1, defragment=WISH), NOON_S + 1) is None


def test_a_new_schedule_counts_from_when_it_is_known() -> None:
    """Applying a policy whose time has passed today does not move jobs at once."""
    tidying = Tidying()
    assert tidying.wish(Policy(version=1), NOON_S) is None
    early = Policy(version=2, defragment=WISH, defragment_schedule="0 11 * * *")
    assert tidying.wish(early, NOON_S + 60) is None
    assert tidying.next_s(early, NOON_S + 60) == NOON_S + 23 * 3600
