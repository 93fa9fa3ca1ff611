"""Jobs on parts of GPUs: what is annotated, and what is refused with what there is."""

from __future__ import annotations

import pytest

from tests.unit.job_submit.site import QUEUES, Controller


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"SLURMEXT_GPU_SLICE": "1g.10gb:2"}, "slice=1g.10gb:2"),
        ({"SLURMEXT_GPU_MEM": "18G", "SLURMEXT_GPU_COMPUTE": "30%"}, "gpu_mem=18432 gpu_compute=30"),
        ({"SLURMEXT_GPU_SHARE": "25%,mem=10G"}, "share=25,10240"),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb", "SLURMEXT_GPU_OOM_RETRY": "1"}, "slice=1g.10gb oom=retry"),
    ],
)
def test_a_job_on_a_part_of_a_gpu_is_held_although_it_asks_for_no_gpu(sliced, options, words: str) -> None:
    """It is annotated with what it needs in plain numbers, and gets a definite number of nodes."""
    outcome = sliced(options)
    assert (outcome.code, outcome.user) == (0, [])
    assert f" {words} " in outcome.comment
    assert (outcome.set["priority"], outcome.set["min_nodes"], outcome.set["max_nodes"]) == ("0", "1", "1")
    assert outcome.comment.endswith("held=1")


def test_without_slurmextd_a_job_on_a_part_of_a_gpu_waits(controller: Controller, sliced) -> None:
    """Nothing else fails closed: it could not run without a slice."""
    controller.beat(600)
    outcome = sliced({"SLURMEXT_GPU_SLICE": "1g.10gb"})
    assert outcome.set["priority"] == "0"
    assert outcome.comment.endswith("held=1")


@pytest.mark.parametrize(
    ("options", "job", "said"),
    [
        ({"SLURMEXT_GPU_SLICE": "1g.99gb"}, {}, "no GPU here has the profile 1g.99gb; there are h100: 1g.10gb, 3g.40gb; a30: 1g.6gb; b200: 1g.23gb; b200x: 1g.23gb"),
        ({"SLURMEXT_GPU_SLICE": "1g.6gb", "SLURMEXT_GPU_TYPES": "h100"}, {}, "no GPU of type h100 has the profile 1g.6gb; there are h100: 1g.10gb, 3g.40gb"),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb", "SLURMEXT_GPU_TYPES": "l40"}, {}, "there are none: those cannot be cut (ask for --gpu-share)"),
        ({"SLURMEXT_GPU_SLICE": "3g.40gb:17"}, {}, "the job wants 17 of them on a node and no node can hold more than 16; ask for at most --gpu-slice=3g.40gb:16, or for more nodes"),
        ({"SLURMEXT_GPU_SLICE": "3g.40gb"}, {"num_tasks": 17}, "wants 17 of them on a node"),
        ({"SLURMEXT_GPU_SLICE": "3g.40gb"}, {"min_nodes": 3}, "the job asks for 3 nodes, and only 2 nodes here can hold that; ask for at most --nodes=2"),
        ({"SLURMEXT_GPU_SLICE": "1g.6gb:2"}, {"min_nodes": 2}, "the job asks for 2 nodes, and only 1 node here can hold 2 of them each; ask for at most --nodes=1"),
        ({"SLURMEXT_GPU_MEM": "20G", "SLURMEXT_GPU_TYPES": "h100"}, {"num_tasks": 33}, "wants 33 of them on a node and no node can hold more than 24; ask for at most 24 tasks on a node, or for more nodes"),
        ({"SLURMEXT_GPU_COMPUTE": "50%"}, {"num_tasks": 17}, "wants 17 of them on a node and no node can hold more than 16"),
        ({"SLURMEXT_GPU_SHARE": "25%,mem=40G", "SLURMEXT_GPU_TYPES": "h100,l40"}, {"min_nodes": 4}, "the job asks for 4 nodes, and only 3 nodes here can hold that"),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb", "SLURMEXT_GPU_TYPES": "a100"}, {}, "--gpu-types=a100: no GPU here is of that type; there are h100, a30, l40, b200"),
        ({"SLURMEXT_GPU_MEM": "1G", "SLURMEXT_GPU_TYPES": "a100,v100"}, {}, "--gpu-types=a100,v100: no GPU here is of any of these types; there are h100"),
        ({"SLURMEXT_GPU_SLICE": "1g.23gb"}, {}, "that name means 20.5 GiB on one board (b200x) and 22 GiB on another (b200); choose with --gpu-types=b200x or b200, or ask for --gpu-mem=20992M"),
        ({"SLURMEXT_GPU_MEM": "1T"}, {}, "no GPU here has so much memory; the largest (b200) has 179.06 GiB; ask for at most 183359M, or for whole GPUs"),
        ({"SLURMEXT_GPU_SHARE": "25%,mem=100G", "SLURMEXT_GPU_TYPES": "h100"}, {}, "the largest (h100) has 79.65 GiB"),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb"}, {"tres_per_node": "gres:gpu:2"}, "--gpu-slice=1g.10gb: the job asks for whole GPUs as well (2); leave out one of the two"),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb", "SLURMEXT_GPU_MEM": "1G"}, {}, "one of them says it all"),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb", "SLURMEXT_GANG_MIN": "1"}, {"num_tasks": 2}, "leave out --gang-min"),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb"}, {"het_job_offset": 0}, "a heterogeneous job cannot have parts of GPUs"),
        ({"SLURMEXT_GPU_OOM_RETRY": "1"}, {}, "it is for jobs on a part of a GPU"),
    ],
)  # fmt: skip
def test_a_part_of_a_gpu_that_cannot_be_had_is_refused_with_what_there_is(sliced, options, job, said: str) -> None:
    """One line that names the request, why not, and what would do."""
    outcome = sliced(options, **job)
    assert outcome.code != 0
    assert len(outcome.user) == 1
    assert said in outcome.user[0]
    assert outcome.set == {}


def test_what_a_size_stands_for_is_refused_by_its_name(controller: Controller, sliced) -> None:
    """Its user typed no other option."""
    controller.queues(QUEUES + "#size\tbig\t1\t0\t\t\t\t\t\t1g.99gb\t\t\t\n#size\tneed\t1\t0\t\t\t\t\t\t\t1T\t\t\n")
    said = sliced({"SLURMEXT_SIZE": "big"}).user
    assert [line.startswith("slurmext: --size=big (--gpu-slice=1g.99gb): no GPU here has") for line in said] == [True]
    said = sliced({"SLURMEXT_SIZE": "need"}).user
    assert [line.startswith("slurmext: --size=need (--gpu-mem=1T): no GPU here has so") for line in said] == [True]


def test_types_choose_between_two_meanings_of_a_name(sliced) -> None:
    """With one type accepted the name means one size."""
    assert sliced({"SLURMEXT_GPU_SLICE": "1g.23gb", "SLURMEXT_GPU_TYPES": "b200"}).code == 0


def test_a_size_may_be_a_part_of_a_gpu(controller: Controller, sliced) -> None:
    """It brings its slice, tasks, CPUs and memory; whoever asks for whole GPUs or another slice gets that."""
    controller.queues(QUEUES + "#size\tnotebook\t1\t0\t\t4\t16384\t60\th100\t1g.10gb\t\t\t\n")
    outcome = sliced({"SLURMEXT_SIZE": "notebook"})
    assert " types=h100 slice=1g.10gb " in outcome.comment
    found = {name: outcome.set.get(name) for name in ("cpus_per_task", "min_cpus", "min_mem_per_node", "time_limit")}
    assert found == {"cpus_per_task": "4", "min_cpus": "4", "min_mem_per_node": "16384", "time_limit": "60"}
    assert "gres" not in outcome.set
    assert outcome.set["environment.SLURMEXT_GPU_SLICE"] == "1g.10gb"
    assert not [name for name in sliced({"SLURMEXT_SIZE": "notebook"}, script=None).set if "environment" in name]
    assert " slice=3g.40gb " in sliced({"SLURMEXT_SIZE": "notebook", "SLURMEXT_GPU_SLICE": "3g.40gb"}).comment
    assert " slice=" not in sliced({"SLURMEXT_SIZE": "notebook"}, tres_per_node="gres:gpu:1").comment


@pytest.mark.parametrize(
    ("options", "job"),
    [
        ({"SLURMEXT_GPU_SLICE": "3g.40gb:16"}, {"min_nodes": 2}),
        ({"SLURMEXT_GPU_SLICE": "1g.10gb:2"}, {"num_tasks": 1000}),
        ({"SLURMEXT_GPU_SHARE": "50%,mem=40G"}, {"num_tasks": 1000}),
        ({"SLURMEXT_GPU_MEM": "10G", "SLURMEXT_GPU_COMPUTE": "10%"}, {"num_tasks": 56, "min_nodes": 1}),
        ({"SLURMEXT_GPU_MEM": "1G"}, {"min_nodes": 5}),
    ],
)
def test_as_much_as_the_nodes_hold_is_taken(sliced, options: dict[str, str], job: dict[str, int]) -> None:
    """Tasks take turns at the slices named with `:N`, and at a share."""
    assert sliced(options, **job).code == 0


def test_nodes_nobody_has_described_are_given_the_benefit_of_the_doubt(controller: Controller, sliced) -> None:
    """Their agents have not reported yet: what they have may be what the job asks for."""
    table = controller.folder / "slices.tsv"
    table.write_text(table.read_text() + "nodes\t1\t?\n")
    assert sliced({"SLURMEXT_GPU_SLICE": "1g.10gb:60"}, min_nodes=1).code == 0
    assert sliced({"SLURMEXT_GPU_SLICE": "1g.10gb"}, min_nodes=3).code == 0
    assert sliced({"SLURMEXT_GPU_SLICE": "1g.5gb", "SLURMEXT_GPU_TYPES": "a100"}).code == 0
    assert sliced({"SLURMEXT_GPU_MEM": "500G"}).code == 0
    assert sliced({"SLURMEXT_GPU_SLICE": "1g.10gb"}, min_nodes=4).code != 0
