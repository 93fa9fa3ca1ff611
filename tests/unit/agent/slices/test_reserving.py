"""Reservations that come while the node is busy with others: what was given up a moment ago is in nobody's way."""

from __future__ import annotations

import pytest

from slurmext.agent.slices.records import Piece
from slurmext.testing.nvml import IN_USE


def test_a_warm_slice_that_is_destroyed_meanwhile_is_nobody_elses(new_node, monkeypatch):
    """It gets too old, or another job's prolog makes room, between the look at the driver and that at the journal."""
    node = new_node("h100", warm_s=600)
    node.mig()
    node.start(1, node.item("2g.20gb", 0))
    node.end(1)
    listed = node.driver.instances

    def and_then_destroy(gpu):
        found = listed(gpu)
        monkeypatch.setattr(node.driver, "instances", listed)
        assert node.maker.drop_warm(gpu)
        return found

    monkeypatch.setattr(node.driver, "instances", and_then_destroy)
    assert node.reserve(2, node.item("1g.10gb", 1)) == "slice_reserved"
    assert node.places() == [] and node.driver.instances == listed


@pytest.mark.parametrize("gone", ["freed", "withdrawn"])
def test_a_place_of_a_reservation_that_was_given_up_is_had_when_the_order_comes_again(new_node, gone):
    """The node still clears it away, or was not told, having been away: no answer yet, and no miss."""
    node = new_node("h100")
    node.mig()
    if gone == "freed":
        node.start(1, node.item("3g.40gb", 0))
        node.gpus.on_call("nvml*Destroy", result=IN_USE)
        node.keeper.withdraw("r1")
        node.settle()
    else:
        node.reserve(1, node.item("3g.40gb", 0))
    assert node.reserve(2, node.item("1g.10gb", 0)) == ""
    assert node.taskfile(2) == ""
    if gone == "freed":
        node.gpus.clear_calls()
        node.keeper.tend()
    else:
        node.keeper.withdraw("r1")
    node.settle()
    assert node.reserve(2, node.item("1g.10gb", 0)) == "slice_reserved"
    assert node.keeper.prolog(2, 1000) is None
    assert node.places() == [(0, "1g.10gb", 0)]


def test_what_stays_in_the_way_is_a_miss_the_second_time(new_node):
    """With the reason; and nothing of the first answer is remembered once the order was taken back."""
    node = new_node("h100")
    node.mig()
    node.start(1, node.item("3g.40gb", 0))
    node.gpus.on_call("nvml*Destroy", result=IN_USE)
    node.keeper.withdraw("r1")
    node.settle()
    assert [made.piece for made in node.book.made()] == [Piece.DESTROYING]
    assert [node.reserve(2, node.item("1g.10gb", 0)) for _ in range(2)] == ["", "slice_missed"]
    assert "the place belongs to job 1" in node.events.of("slice_missed")[0]["reason"]
    assert node.reserve(3, node.item("1g.10gb", 0)) == ""
    node.keeper.withdraw("r3")
    assert node.keeper._put_off == set()
    node.gpus.clear_calls()


def test_what_a_running_job_has_is_a_miss_at_once(new_node):
    """It will not be gone in a moment."""
    node = new_node("h100")
    node.mig()
    node.start(1, node.item("3g.40gb", 0))
    assert node.reserve(2, node.item("1g.10gb", 3)) == "slice_missed"


def test_a_gpu_that_is_full_of_leaving_ones(new_node):
    """Compute slices run out before memory units do: 4g and 3g leave none for a 1g, whoever has them."""
    node = new_node("h100", "h100")
    node.mig()
    node.reserve(1, *(node.item("1g.10gb", start) for start in range(7)))
    assert node.reserve(2, node.item("1g.10gb", 0)) == ""
    node.keeper.withdraw("r1")
    assert node.reserve(2, node.item("1g.10gb", 0)) == "slice_reserved"
