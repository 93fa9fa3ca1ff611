"""Sizes: request templates filled in at submit."""

from __future__ import annotations

import pytest

from tests.unit.job_submit.site import INFINITE, NO_VAL, QUEUES, Controller, Outcome

SIZES = (
    "#size\tsmall\t1\t1\t\t8\t65536\t240\th100\n#size\tlarge\t2\t8\t4\t\t\t\t\n#size\tmixed\t1\t2\t\t\t\t\th100,a100\n"
)


def _sized(controller: Controller, size: str, **job: object) -> Outcome:
    controller.queues(QUEUES + SIZES)
    return controller.submit(options={"SLURMEXT_SIZE": size}, **{"tres_per_job": None, **job})


def test_a_size_fills_in_the_whole_request(controller: Controller) -> None:
    """GPUs of its one type, nodes, CPUs, memory and time; the spelling of TRES is the release's own."""
    outcome = _sized(controller, "small")
    assert outcome.code == 0
    assert outcome.set == {
        "gres": "gpu:h100:1", "min_nodes": "1", "max_nodes": "1", "cpus_per_tres": "gres/gpu:8",
        "mem_per_tres": "gres/gpu:65536", "time_limit": "240", "priority": "0",
        "admin_comment": "slurmext/1 queue=research types=h100 size=small held=1",
    }  # fmt: skip


def test_a_size_of_several_nodes_starts_its_tasks_on_each(controller: Controller) -> None:
    """What the size does not say is left to Slurm."""
    fields = _sized(controller, "large").set
    assert {key: fields[key] for key in ("gres", "min_nodes", "ntasks_per_node", "num_tasks")} == {
        "gres": "gpu:8", "min_nodes": "2", "ntasks_per_node": "4", "num_tasks": "8"
    }  # fmt: skip
    assert not {"cpus_per_tres", "mem_per_tres", "time_limit"} & fields.keys()


@pytest.mark.parametrize(
    ("job", "absent", "present"),
    [
        ({"time_limit": 10}, {"time_limit"}, {"gres", "min_nodes"}),
        ({"time_limit": INFINITE}, {"time_limit"}, {"gres"}),
        ({"min_nodes": 3}, {"min_nodes", "max_nodes"}, {"gres", "time_limit"}),
        ({"tres_per_node": "gres:gpu:a100:2"}, {"gres"}, {"min_nodes", "cpus_per_tres"}),
        ({"tres_per_job": "gres:gpu:2"}, {"gres", "min_nodes", "max_nodes"}, {"cpus_per_tres", "time_limit"}),
        ({"tres_per_task": "gres:gpu:2"}, {"gres", "min_nodes", "max_nodes"}, {"cpus_per_tres"}),
        ({"cpus_per_task": 4}, {"cpus_per_tres"}, {"gres"}),
        ({"cpus_per_tres": "gres:gpu:2"}, {"cpus_per_tres"}, {"gres"}),
        ({"min_mem_per_node": 1000}, {"mem_per_tres"}, {"gres"}),
        ({"min_mem_per_cpu": 1000}, {"mem_per_tres"}, {"gres"}),
        ({"mem_per_tres": "gres:gpu:1000"}, {"mem_per_tres"}, {"gres"}),
    ],
)
def test_what_the_user_asks_for_himself_wins_over_the_size(
    controller: Controller, job: dict[str, object], absent: set[str], present: set[str]
) -> None:
    """Each part of the request by itself."""
    fields = _sized(controller, "small", **job).set
    assert not absent & fields.keys()
    assert present <= fields.keys()


def test_the_users_gpu_types_win_over_the_sizes(controller: Controller) -> None:
    """By option, or in the request; several types are the daemon's to choose from."""
    controller.queues(QUEUES + SIZES)
    both = {"SLURMEXT_SIZE": "small", "SLURMEXT_GPU_TYPES": "a100"}
    outcome = controller.submit(options=both, tres_per_job=None)
    assert (outcome.set["gres"], "types=a100" in outcome.comment) == ("gpu:a100:1", True)
    assert "types" not in _sized(controller, "small", tres_per_node="gres:gpu:a100:2").comment
    mixed = _sized(controller, "mixed")
    assert (mixed.set["gres"], "types=h100,a100 size=mixed" in mixed.comment) == ("gpu:2", True)


def test_other_resources_of_the_node_are_kept_beside_the_sizes_gpus(controller: Controller) -> None:
    """`--gres=shard:2 --size=small`."""
    assert _sized(controller, "small", tres_per_node="gres:shm:1").set["gres"] == "gres:shm:1,gpu:h100:1"


def test_a_sizes_gpus_count_against_the_queues_max(controller: Controller) -> None:
    """16 GPUs into a queue of at most 4 that refuses."""
    controller.queues((QUEUES + SIZES).replace("prod/batch\t1\t\t", "prod/batch\t1\t4\t"))
    outcome = controller.submit(options={"SLURMEXT_SIZE": "large", "SLURMEXT_QUEUE": "prod/batch"}, tres_per_job=None)
    assert outcome.code != 0
    assert "asks for 16 GPUs" in outcome.user[0]


def test_an_unknown_size_is_refused_with_those_there_are(controller: Controller) -> None:
    """The nearest one first."""
    outcome = _sized(controller, "smal")
    assert outcome.code == -1
    assert outcome.user == [
        (
            "slurmext: --size=smal: no such size; did you mean small? sizes: small (1 GPU), large (2 x 8 GPUs),"
            " mixed (2 GPUs)"
        )
    ]
    assert outcome.set == {}


def test_a_size_works_while_slurmextd_is_away(controller: Controller) -> None:
    """The request is filled in, the job not held."""
    controller.beat(60)
    fields = _sized(controller, "small").set
    assert fields["gres"] == "gpu:h100:1"
    assert "priority" not in fields
    assert fields["admin_comment"].endswith("size=small held=0")


def test_when_a_field_cannot_be_set_the_job_is_as_it_was(controller: Controller) -> None:
    """All of the size or nothing of it."""
    outcome = _sized(controller, "small", broken={"write": "time_limit"})
    assert outcome.code == 0
    assert (outcome.set["gres"], outcome.set["min_nodes"]) == ("", str(NO_VAL))
    assert "admin_comment" not in outcome.set
