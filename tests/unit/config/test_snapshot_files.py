"""Snapshot and plan files: calendars, cuts, removed queues and notes go through them unchanged."""

from __future__ import annotations

import json

import pytest

from slurmext.config.wire import SnapshotError, plan_from_json, plan_to_json, snapshot_from_json, snapshot_to_json
from slurmext.model.plan import Note, Plan, Reason
from slurmext.model.queue import PreDrain, Queue, QuotaChange, TypeQuota
from slurmext.model.snapshot import Snapshot

FULL = Snapshot(
    now_s=1000,
    queues=(
        Queue(
            path="a",
            max=8,
            cut_s=1600,
            pre_drain=PreDrain.TELL,
            changes=(
                QuotaChange(at_s=5000, guaranteed=2, max=4, by_type={"h100": TypeQuota(max=2)}),
                QuotaChange(at_s=6000, max=8),
            ),
        ),
        Queue(path="b"),
    ),
    removed={"old": 1300},
)


def test_a_snapshot_comes_back_as_it_was() -> None:
    """Written and read, nothing is lost."""
    assert snapshot_from_json(snapshot_to_json(FULL)) == FULL


def test_what_says_nothing_is_left_out() -> None:
    """A file without calendars and cuts has none of their keys."""
    written = json.loads(snapshot_to_json(Snapshot(queues=(Queue(path="b"),))))
    assert not {"changes", "cut_s", "pre_drain"} & written["queues"][0].keys()
    assert "removed" not in written


def test_a_plan_keeps_its_notes() -> None:
    """Who is told what, and when it happens."""
    made = Plan(note=(Note(job="7", reason=Reason.PRE_DRAIN, at_s=5000),))
    assert plan_from_json(plan_to_json(made)) == made


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([{"at_s": 9}, {"at_s": 3}], "the soonest stands first"),
        ([{"at_s": 9}, {"at_s": 9}], "each time once"),
        ([{"at_s": 9, "max": -1}], "queues[0].changes[0].max: queue 'a' has -1; the least is 0"),
        ([{"at_s": 9, "maxx": 1}], "unknown key 'maxx', did you mean 'max'?"),
    ],
)
def test_changes_that_cannot_be_are_refused(changes: list[object], words: str) -> None:
    """With their place in the file."""
    text = json.dumps({"version": 1, "queues": [{"path": "a", "changes": changes}]})
    with pytest.raises(SnapshotError) as caught:
        snapshot_from_json(text)
    assert words in str(caught.value)
