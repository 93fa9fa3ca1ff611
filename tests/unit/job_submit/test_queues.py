"""The queue a job names: who may use it, and how much it may ask for."""

from __future__ import annotations

import pytest

from tests.unit.job_submit.site import Controller


def test_an_unknown_queue_is_refused_with_the_nearest(controller: Controller) -> None:
    """One line: what was given, what was meant, what may be used."""
    outcome = controller.submit(options={"SLURMEXT_QUEUE": "prod/chta"})
    assert outcome.code == -1
    assert outcome.set == {}
    assert outcome.user == [
        (
            "slurmext: --queue=prod/chta: no such queue; did you mean prod/chat? "
            "you may use research, prod/chat, prod/batch, lab"
        )
    ]


def test_a_parent_queue_is_refused_with_its_leaves(controller: Controller) -> None:
    """Jobs go into leaves."""
    outcome = controller.submit(options={"SLURMEXT_QUEUE": "prod"})
    assert outcome.code == -1
    assert "choose one of prod/chat, prod/batch" in outcome.user[0]


def test_another_users_queue_is_denied(controller: Controller) -> None:
    """The ACL names users or accounts; the message lists only what this user may use."""
    outcome = controller.submit(options={"SLURMEXT_QUEUE": "prod/chat"}, user_name="mallory", default_account="web")
    assert outcome.code == 2002
    assert "user mallory (account web) may not use it; you may use research, prod/batch, lab" in outcome.user[0]


@pytest.mark.parametrize("who", [{"user_name": "carol"}, {"user_name": "dave", "account": "ml"},
                                 {"user_name": "dave", "default_account": "ml"}])  # fmt: skip
def test_a_listed_user_or_account_is_let_in(controller: Controller, who: dict[str, object]) -> None:
    """Either is enough."""
    assert controller.submit(options={"SLURMEXT_QUEUE": "prod/chat"}, **who).code == 0


def test_a_listed_account_lets_nobody_else_in(controller: Controller) -> None:
    """An explicit account counts instead of the default one."""
    outcome = controller.submit(
        options={"SLURMEXT_QUEUE": "prod/chat"}, user_name="dave", account="web", default_account="ml"
    )
    assert outcome.code == 2002


def test_more_than_max_is_refused(controller: Controller) -> None:
    """The job could never run."""
    outcome = controller.submit(tres_per_job="gres:gpu:33")
    assert outcome.code == 2050
    assert "asks for 33 GPUs and the queue may never have more than 32" in outcome.user[0]
    assert controller.submit(tres_per_job="gres:gpu:32").code == 0


def test_more_than_max_is_held_where_the_policy_says_hold(controller: Controller) -> None:
    """over_max: hold."""
    assert controller.submit(tres_per_job="gres:gpu:33", options={"SLURMEXT_QUEUE": "lab"}).set["priority"] == "0"


@pytest.mark.parametrize(
    ("request_", "gpus"),
    [
        ({"tres_per_job": "gres:gpu:5"}, 5),
        ({"tres_per_job": "gres/gpu:5"}, 5),
        ({"tres_per_job": "gres/gpu=5"}, 5),
        ({"tres_per_job": "gres:gpu:h100:5"}, 5),
        ({"tres_per_job": "gres/gpu:h100=5"}, 5),
        ({"tres_per_job": "gres:gpu"}, 1),
        ({"tres_per_job": "gres:gpu:h100"}, 1),
        ({"tres_per_job": "gres:gpu:h100:2,gres:gpu:a100:3"}, 5),
        ({"tres_per_job": "cpu=4,gres/gpu=2,gres/nic=7"}, 2),
        ({"tres_per_node": "gres:gpu:2"}, 2),
        ({"tres_per_node": "gres:gpu:2", "min_nodes": 4}, 8),
        ({"tres_per_node": "gpu:2(S:0-1)", "min_nodes": 2}, 4),
        ({"tres_per_node": "gres:gpu:2", "num_tasks": 8, "ntasks_per_node": 2}, 8),
        ({"tres_per_node": "gres:gpu:2", "num_tasks": 7, "ntasks_per_node": 2}, 8),
        ({"tres_per_task": "gres:gpu:2", "num_tasks": 6}, 12),
        ({"tres_per_task": "gres/gpu:2", "min_nodes": 2, "ntasks_per_node": 4}, 16),
        ({"tres_per_socket": "gres:gpu:2", "min_nodes": 2, "sockets_per_node": 2}, 8),
        ({"tres_per_job": "gres:gpu:8", "tres_per_node": "gres:gpu:2"}, 8),
    ],
)
def test_gpus_are_counted_in_every_form(controller: Controller, request_: dict[str, object], gpus: int) -> None:
    """A max of one less refuses the job, and names the number."""
    controller.queues(f"#default\tq\nq\t1\t{gpus - 1}\trefuse\t\t\n")
    outcome = controller.submit(**({"tres_per_job": None} | request_))
    assert outcome.code == 2050
    assert f"asks for {gpus} GPUs" in outcome.user[0]


@pytest.mark.parametrize("tres", ["gres:nic:2", "gres:gpu_mem:1", "gres:shard:4", "license/gpu:1", "cpu=4"])
def test_other_resources_are_no_gpus(controller: Controller, tres: str) -> None:
    """Only gres/gpu counts."""
    assert controller.submit(tres_per_job=tres).set == {}
