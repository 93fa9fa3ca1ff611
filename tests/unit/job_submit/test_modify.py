"""What a user may change of a job that is held."""

from __future__ import annotations

import time

import pytest

from tests.unit.job_submit.site import INFINITE, Controller

HELD = {"admin_comment": "slurmext/1 queue=research ckpt=auto held=1", "priority": 0, "req_nodes": None}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"priority": INFINITE}, 2002),
        ({"priority": 500}, 2002),
        ({"priority": 0}, 2002),
        ({"req_nodes": "n3"}, 2002),
        ({"requeue": 0}, 2002),
        ({}, 0),
        ({"time_limit": 5}, 0),
    ],
)
def test_a_user_cannot_undo_what_was_decided(controller: Controller, change: dict[str, object], code: int) -> None:
    """Release, priority, nodes and requeue of a held job are slurmextd's; root and SlurmUser may change them."""
    assert controller.modify(HELD, **change).code == code
    assert controller.modify(HELD, uid=0, **change).code == 0
    assert controller.modify(HELD, uid=64030, **change).code == 0


@pytest.mark.parametrize("comment", [None, "", "hello", "slurmext/1 queue=research held=0", "x slurmext/1 held=1"])
def test_other_jobs_are_their_users(controller: Controller, comment: str | None) -> None:
    """Only jobs that we hold are guarded."""
    assert controller.modify({"admin_comment": comment}, priority=INFINITE).code == 0


def test_a_user_may_release_their_own_hold(controller: Controller) -> None:
    """Slurmextd is woken and has until the begin time to take the job over."""
    held = {"admin_comment": "slurmext/1 queue=research user_hold=1 held=1", "priority": 0}
    outcome = controller.modify(held, priority=INFINITE)
    assert outcome.code == 0
    assert 25 <= float(outcome.set["begin_time"]) - time.time() <= 31
    assert controller.woken
    tomorrow = int(time.time()) + 86400
    held["admin_comment"] = controller.submit(priority=0, begin_time=tomorrow).comment
    assert float(controller.modify(held, priority=INFINITE).set["begin_time"]) == tomorrow


def test_an_error_in_modify_lets_it_pass(controller: Controller) -> None:
    """Our mistakes never block an update."""
    assert controller.modify(HELD, broken={"read": "priority"}).code == 0
