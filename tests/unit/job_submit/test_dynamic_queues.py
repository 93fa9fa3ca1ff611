"""Queues that make themselves, and rules that choose a queue."""

from __future__ import annotations

import pytest

from tests.unit.job_submit.site import Controller

DYNAMIC = (
    "#default\tresearch/{user}\n"
    "#rule\t\t\t\tteaching/{user}\tstudents\n"
    "#rule\t\tnlp\t\t{account}\t\n"
    "#rule\t\t\tcpu\tresearch/{group}\t\n"
    "#group\tstudents\t700\tzoe,eve\n"
    "#gid\t50\tstaff\n"
    "research\t0\t32\trefuse\t\t\n"
    "research/*\t1\t16\trefuse\t\t\n"
    "research/shared\t1\t32\trefuse\t\t\n"
    "teaching\t0\t8\trefuse\tzoe\tclass\n"
    "teaching/*\t1\t4\thold\tzoe\tclass\n"
    "nlp\t1\t\trefuse\t\t\n"
)


@pytest.mark.parametrize(
    ("job", "queue"),
    [
        ({}, "research/alice"),
        ({"account": "nlp"}, "nlp"),
        ({"account": "nlp", "user_name": "eve"}, "teaching/eve"),
        ({"group_id": 700}, "teaching/alice"),
        ({"partition": "cpu", "group_id": 50}, "research/staff"),
    ],
)
def test_templates_make_the_queue_of_a_job_that_names_none(
    controller: Controller, job: dict[str, object], queue: str
) -> None:
    """User, account, group of the list or by number, primary group."""
    controller.queues(DYNAMIC.replace("\tzoe\tclass", "\t\t"))
    assert f"queue={queue} held=1" in controller.submit(**job).comment


def test_a_group_without_a_name_here_is_left_to_slurmextd(controller: Controller) -> None:
    """The job is held without a queue; the daemon finds it."""
    controller.queues(DYNAMIC)
    outcome = controller.submit(partition="cpu", group_id=51)
    assert outcome.set == {"admin_comment": "slurmext/1 held=1", "priority": "0"}


def test_a_name_that_is_no_queue_name_makes_no_queue(controller: Controller) -> None:
    """The rule does not match; without another the job is left to Slurm."""
    controller.queues(DYNAMIC)
    assert controller.submit(user_name="al@ad").set == {}
    assert controller.submit(user_name="../x").set == {}
    assert "queue=research/al.ice_1" in controller.submit(user_name="al.ice_1").comment


def test_a_user_may_ask_for_his_own_queue_and_not_for_anothers(controller: Controller) -> None:
    """Nor may the owner of the name get past the parent's ACL."""
    controller.queues(DYNAMIC)
    assert "queue=research/alice" in controller.submit(options={"SLURMEXT_QUEUE": "research/alice"}).comment
    others = controller.submit(options={"SLURMEXT_QUEUE": "research/bob"})
    assert others.code == 2002
    assert "--queue=research/bob: that queue is not yours, research/alice is" in others.user[0]
    assert controller.submit(options={"SLURMEXT_QUEUE": "teaching/alice"}).code == 2002
    class_ = {"options": {"SLURMEXT_QUEUE": "teaching/alice"}, "account": "class"}
    assert "queue=teaching/alice" in controller.submit(**class_).comment
    staff = {"options": {"SLURMEXT_QUEUE": "research/staff"}, "partition": "cpu", "group_id": 50}
    assert "queue=research/staff" in controller.submit(**staff).comment


def test_a_listed_child_of_a_dynamic_queue_is_an_ordinary_one(controller: Controller) -> None:
    """Nobody needs to be called so."""
    controller.queues(DYNAMIC)
    assert "queue=research/shared" in controller.submit(options={"SLURMEXT_QUEUE": "research/shared"}).comment


def test_the_limits_of_a_dynamic_queue_are_those_of_its_parents_children(controller: Controller) -> None:
    """Refused at submit where the parent says so, held where it says hold."""
    controller.queues(DYNAMIC)
    over = controller.submit(tres_per_job="gres:gpu:17")
    assert (
        "default queue research/alice: the job asks for 17 GPUs and the queue may never have more than 16"
        in (over.user[0])
    )
    assert controller.submit(user_name="zoe", tres_per_job="gres:gpu:5").code == 0


def test_suggestions_name_the_users_own_dynamic_queue(controller: Controller) -> None:
    """Not the pattern."""
    controller.queues(DYNAMIC)
    for wrong in ("reserch", "research"):
        said = controller.submit(options={"SLURMEXT_QUEUE": wrong}).user[0]
        assert "research/alice" in said
        assert "*" not in said
