"""A GPU changes between whole, cut and shared use while nobody uses it, without resets."""

from __future__ import annotations

import os

import pytest

from slurmext.adapters.tcp.orders import SetGpuUse
from slurmext.agent.slices.inventory import inventory
from slurmext.model.slicing import GpuUse


def use(node, what, gpu=0):
    """Order it; what the agent answered."""
    node.uses.set(SetGpuUse(gpu=node.gpus.uuid(gpu), use=what))
    said = node.events.of("gpu_use")[-1]
    return said["ok"], said["why"]


def seen(node, gpu=0):
    return inventory(node.book, node.maker, node.driver)[gpu]


def test_there_and_back(new_node):
    """Whole, cut, whole, shared, whole: each is what the inventory says, and MIG mode follows."""
    node = new_node("h100")
    for what, mig in ((GpuUse.MIG, True), (GpuUse.WHOLE, False), (GpuUse.SHARED, False), (GpuUse.WHOLE, False)):
        assert use(node, what) == (True, "")
        assert (seen(node)["use"], seen(node)["mig"]) == (what.value, mig)


def test_what_it_is_already(new_node):
    """An order for the use it has is carried out."""
    node = new_node("h100")
    assert use(node, GpuUse.WHOLE)[0] and use(node, GpuUse.MIG)[0] and use(node, GpuUse.MIG)[0]


@pytest.mark.parametrize("gpu_type", ["l40s", "a100"])
def test_cards_that_cannot(new_node, gpu_type):
    """One without MIG cannot be cut; one that would have to be reset is not."""
    node = new_node(gpu_type)
    ok, why = use(node, GpuUse.MIG)
    assert not ok and ("cannot be cut" if gpu_type == "l40s" else "reset") in why
    assert seen(node)["use"] == "whole"
    assert use(node, GpuUse.SHARED)[0]


def test_a_card_in_mig_mode_from_the_start(new_node):
    """The site turned MIG mode on: it is used, and left on afterwards; it cannot be shared."""
    node = new_node("a100")
    node.gpus.set_mig(True)
    assert seen(node)["use"] == "whole"
    assert use(node, GpuUse.MIG)[0]
    assert not use(node, GpuUse.SHARED)[0]
    assert use(node, GpuUse.WHOLE)[0]
    assert seen(node)["mig"] is True


def test_a_gpu_in_use_stays(new_node):
    """A process on the whole GPU, a job on a slice, a reservation: the order is refused with who it is."""
    node = new_node("h100")
    node.gpus.hold(0, os.getpid())
    for what in (GpuUse.MIG, GpuUse.SHARED):
        ok, why = use(node, what)
        assert not ok and str(os.getpid()) in why
    node.gpus.let_go(os.getpid())
    node.mig()
    node.reserve(1, node.item("1g.10gb", 0))
    assert "job 1" in use(node, GpuUse.WHOLE)[1]
    node.keeper.prolog(1, 1000)
    assert "job 1" in use(node, GpuUse.WHOLE)[1]
    node.end(1)
    assert use(node, GpuUse.WHOLE)[0]


def test_warm_slices_go_when_a_gpu_is_given_back(new_node):
    """They are nobody's."""
    node = new_node("h100", warm_s=600)
    node.mig()
    node.start(1, node.item("1g.10gb", 0))
    node.end(1)
    assert use(node, GpuUse.WHOLE)[0] and node.places() == []


def test_somebody_elses_instances(new_node):
    """A GPU that somebody else cut is of unknown use, and not given back."""
    node = new_node("h100")
    node.gpus.set_mig(True)
    node.driver.create(node.gpus.uuid(0), "1g.10gb", 0)
    assert seen(node)["use"] == "unknown"
    assert seen(node)["instances"][0]["state"] == "foreign"
    assert "did not make" in use(node, GpuUse.MIG)[1]
    assert len(node.places()) == 1


def test_mig_mode_comes_back_after_a_reboot(new_node):
    """Hopper forgets the mode; the next agent turns it on again."""
    node = new_node("h100")
    node.mig()
    node.gpus.reset()
    assert seen(node)["mig"] is False
    node.restart()
    assert seen(node)["mig"] is True


def test_the_inventory_names_who_sits_where(new_node):
    """Busy, warm, foreign: with the job, place and UUID; profiles with all that the planner wants of them."""
    node = new_node("h100", warm_s=600)
    node.mig()
    node.driver.create(node.gpus.uuid(0), "1g.10gb", 6)
    node.start(1, node.item("1g.10gb", 0))
    node.start(2, node.item("1g.10gb", 1))
    node.end(2)
    shown = {(each["start"], each["state"], each["job_id"]) for each in seen(node)["instances"]}
    assert shown == {(0, "busy", 1), (1, "warm", None), (6, "foreign", None)}
    profile = next(each for each in seen(node)["geometry"] if each["name"] == "3g.40gb")
    assert {key: profile[key] for key in ("id", "size", "compute", "starts", "max")} == {
        "id": 9, "size": 4, "compute": 3, "starts": [0, 4], "max": 2}  # fmt: skip
