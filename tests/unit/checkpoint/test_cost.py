"""What a checkpoint cost a program is what it would have trained in the meantime."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from slurmext.checkpoint import Checkpointer
from slurmext.checkpoint.cost import CostMeter, CountedCost


def test_steps_that_take_longer_are_its_cost() -> None:
    """Ten usual steps of 0.1 s, then one with a stall of 0.2 s and two of 0.15 s until it is on disk."""
    meter = CostMeter()
    now = 0.0
    for _ in range(11):
        assert meter.step(now) is None
        now += 0.1
    meter.began(now - 0.05)
    assert meter.step(now + 0.2) is None
    assert meter.step(now + 0.35) is None
    meter.ended(now + 0.45)
    assert meter.step(now + 0.5) == pytest.approx(0.3)
    assert meter.step(now + 0.6) is None


def test_it_never_costs_more_than_it_took() -> None:
    """An evaluation of ten seconds in the step that was saved in is none of its cost."""
    meter = CostMeter()
    for number in range(5):
        meter.step(number)
    meter.began(4.1)
    meter.ended(4.4)
    assert meter.step(15.0) == pytest.approx(0.3)


def test_two_saves_in_one_step_share_its_cost() -> None:
    """What two checkpoints cost together is twice what one does; one in the first step of all says nothing."""
    meter = CostMeter()
    meter.began(0.0)
    meter.ended(0.5)
    assert meter.step(1.0) is None
    assert meter.step(2.0) is None
    for number in range(3, 6):
        meter.step(number)
    for at in (5.1, 5.4):
        meter.began(at)
        meter.ended(at + 0.2)
    assert meter.step(6.4) == pytest.approx(0.2)


def test_a_loop_that_only_counts() -> None:
    """The stall, and the steps that were not made while it was written; too few steps to tell are not counted."""
    counted = CountedCost()
    counted.began(10, 10.0)
    counted.taken(10, 10.5)
    assert counted.ended(12, 13.0) == pytest.approx(0.5)
    counted.began(112, 113.0)
    counted.taken(112, 113.25)
    assert counted.ended(122, 125.25) == pytest.approx(0.25 + 2.0)


@pytest.mark.parametrize("wait", [True, False])
def test_a_loop_with_due_measures_by_itself(tmp_path: Path, wait: bool) -> None:
    """The interval rests on what saves cost, not on an assumption, from the second one on."""
    with Checkpointer({"n": bytes(1 << 20)}, tmp_path, signals=False) as ckpt:
        assert ckpt.interval.reasons()["costs_measured"] == 0
        began = time.monotonic()
        for step in range(1, 40):
            time.sleep(0.002)
            if step % 20 == 0:
                ckpt.ask()
                while not ckpt.due(step):
                    time.sleep(0.001)
                ckpt.save(step, wait=wait)
    assert ckpt.interval.reasons()["costs_measured"] == 1
    assert 0 < ckpt.interval.cost_s < time.monotonic() - began


def test_a_save_that_fails_is_no_reason_to_stop_measuring(tmp_path: Path) -> None:
    """A meter that waited for the end of a failed save for ever would never measure again."""
    meter = CostMeter()
    with Checkpointer({"n": object()}, tmp_path, signals=False) as ckpt:
        ckpt.costs.meter = meter
        for number in range(3):
            meter.step(number)
        with pytest.raises(Exception, match="object"):
            ckpt.save(1)
        ckpt.state["n"] = 1
        ckpt.save(2)
    assert meter.step(time.monotonic()) is not None
