"""kill -9 of the hook at every NVML call that the agent makes for it: nothing is left, nobody has another's slice."""

from __future__ import annotations

import os

import pytest

from .crashes import CHANGES, wrong
from .dying_hooks import DyingHooks, plans

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="device nodes are root's")


@pytest.mark.parametrize("every", [
    False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(3000)]),
], ids=["some", "all"])  # fmt: skip
def test_a_hook_dies_at_a_call(new_node, every):
    """Its reply reaches nobody; nothing more comes, or the prolog again, or at once the job's end, or an order to take
    the slices back. No thread of the agent hangs, every slice has one owner, and jobs and their next runs get theirs.
    """
    node = new_node("h100", "h100", warm_s=600)
    node.gpus.set_mig(True, 1)
    node.mig(1)
    node.driver.create(node.gpus.uuid(1), "1g.10gb", 6)  # somebody else's
    foreign = node.gpus.slices()
    hooks = DyingHooks(node)
    deaths = 0
    for number, plan in enumerate([{}, *plans(hooks.day({}, 1), CHANGES, every=every)]):
        if number:
            hooks.day(plan, first=10 * number)
        deaths += len(plan)
        problem = wrong(node, foreign)
        hooks.night(10 * number or 1)
        left = [one for one in node.gpus.slices() if one not in foreign], node.book.made(), node.book.reservations()
        assert (plan, problem, hooks.problems, left) == (plan, "", [], ([], [], []))
    assert deaths >= 40
    hooks.server.stop()
