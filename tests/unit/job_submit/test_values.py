"""Values of options are checked again where they are trusted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurmext.options import OPTIONS, Argument, is_valid
from tests.unit.job_submit.site import Controller

PARTS = {"gpu-slice", "gpu-mem", "gpu-compute", "gpu-share", "gpu-oom-retry"}
CASES = [(option, value) for option in OPTIONS for value in (*option.good, *option.bad) if value and "\n" not in value]


@pytest.mark.parametrize(("option", "value"), CASES, ids=lambda case: str(getattr(case, "name", case))[:20])
def test_the_same_verdict_as_python(controller: Controller, option, value: str) -> None:
    """A bad value without the SPANK plugin is refused here, in one line with rule and example."""
    (controller.folder / "queues.tsv").unlink()
    given, job = {option.env: value}, {"tres_per_job": None} if option.name.startswith("gpu-") else {}
    if option.name == "gpu-oom-retry":
        given["SLURMEXT_GPU_SLICE"] = "1g.10gb"
    outcome = controller.submit(options=given, num_tasks=1_000_000, **job)
    if is_valid(option, value) and option.name == "size":
        assert "sizes are part of a policy, and none is in force here" in outcome.user[0]
        assert "`slurmext policy apply FILE`; ask for what the job needs" in outcome.user[0]
    elif is_valid(option, value) and option.name in PARTS:
        assert "a job on a part of a GPU needs a policy, and none is in force here" in outcome.user[0]
    elif is_valid(option, value):
        assert (outcome.code, outcome.user) == (0, [])
    else:
        assert outcome.code == -1
        example = "" if option.argument is Argument.NONE else f"={option.example}"
        assert outcome.user[0].endswith(f"must be {option.rule}; for example --{option.name}{example}")
        assert outcome.set == {}


def test_environment_twins_work_without_the_plugin(controller: Controller) -> None:
    """A batch job sent by REST has them in its environment."""
    assert "queue=lab" in controller.submit(env={"SLURMEXT_QUEUE": "lab"}).comment


def test_the_plugins_value_wins_over_the_environment(controller: Controller) -> None:
    """It already knows the precedence."""
    outcome = controller.submit(options={"SLURMEXT_QUEUE": "lab"}, env={"SLURMEXT_QUEUE": "research"})
    assert "queue=lab" in outcome.comment


def test_a_flags_twin_can_say_no(controller: Controller) -> None:
    """SLURMEXT_NO_PREEMPT=no leaves the job preemptible."""
    assert "preempt" not in controller.submit(options={"SLURMEXT_NO_PREEMPT": "no"}).comment


def test_a_gang_larger_than_the_job_is_refused(controller: Controller) -> None:
    """It could never start."""
    outcome = controller.submit(options={"SLURMEXT_GANG_MIN": "5"}, num_tasks=4)
    assert outcome.code == -1
    assert "--gang-min=5: the job has 4 tasks" in outcome.user[0]


@pytest.mark.parametrize(
    ("job", "tasks"),
    [
        ({}, "1 task "), ({"min_nodes": 3}, "3 tasks "), ({"min_nodes": 2, "ntasks_per_node": 2}, "4 tasks "),
        ({"tres_per_job": "gres:gpu:8", "tres_per_task": "gres:gpu:2"}, "4 tasks "),
    ],
)  # fmt: skip
def test_a_job_that_does_not_say_how_many_tasks_has_one_for_each_node(
    controller: Controller, job: dict[str, int], tasks: str
) -> None:
    """Or as many as it wants on each, or as its GPUs are for."""
    assert f"--gang-min=5: the job has {tasks}" in controller.submit(options={"SLURMEXT_GANG_MIN": "5"}, **job).user[0]
    assert controller.submit(options={"SLURMEXT_GANG_MIN": tasks[0]}, **job).code == 0


def test_the_sites_prefix_is_in_the_messages(controller: Controller) -> None:
    """A user sees the option as it is called here."""
    controller.site = replace(controller.site, prefix="sx-")
    assert "--sx-queue=nope" in controller.submit(options={"SLURMEXT_QUEUE": "nope"}).user[0]
