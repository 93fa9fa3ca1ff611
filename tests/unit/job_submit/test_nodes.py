"""What no node could ever hold is refused at once, for whole GPUs and parts of them alike."""

from __future__ import annotations

import pytest

from slurmext.config.node_table import nodes_tsv
from slurmext.model.node import Node, NodeState
from tests.unit.job_submit.site import Controller

NODES = (
    Node(name="n1", gpus=2, cpus=64, memory_mib=65536),
    Node(name="n2", gpus=4, cpus=32, memory_mib=131072, state=NodeState.DOWN),
)
MEMORY = "Memory specification can not be satisfied: the job asks for "
PART = {"SLURMEXT_GPU_MEM": "1G"}


@pytest.fixture(params=[{}, PART], ids=["whole", "part"])
def submit(request: pytest.FixtureRequest, controller: Controller):
    """`sbatch` of a job on a whole GPU, and of one on a part of a GPU."""
    (controller.folder / "nodes.tsv").write_text(nodes_tsv(NODES, {}))
    whole = {} if request.param else {"tres_per_node": "gres/gpu:2", "tres_per_job": None}
    more = {"tres_per_job": None} if request.param else whole
    return lambda **job: controller.submit(options=request.param, **{**more, **job})


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ({"min_mem_per_node": 131073}, MEMORY + "131073 MiB on a node, and the largest here (n2) has 131072 MiB; ask for at most --mem=131072M"),
        ({"min_mem_per_node": 10485760}, MEMORY + "10240 GiB on a node, and the largest here (n2) has 128 GiB"),
        ({"min_mem_per_cpu": 65536, "cpus_per_task": 3}, MEMORY + "192 GiB on a node"),
        ({"min_mem_per_cpu": 65536, "num_tasks": 6, "min_nodes": 2}, MEMORY + "192 GiB on a node"),
        ({"cpus_per_task": 65}, "the job asks for 65 CPUs on a node, and the largest here (n1) has 64; ask for fewer --cpus-per-task"),
        ({"cpus_per_task": 13, "num_tasks": 10, "min_nodes": 2}, "the job asks for 65 CPUs on a node"),
    ],
)  # fmt: skip
def test_more_than_any_node_has_is_refused_with_the_largest(submit, job: dict[str, int], said: str) -> None:
    """In Slurm's words, the largest node and what would do; nodes that are down count, as in Slurm."""
    outcome = submit(**job)
    assert outcome.code != 0 and outcome.set == {}
    assert [said in line for line in outcome.user] == [True], outcome.user


@pytest.mark.parametrize("job", [
    {}, {"min_mem_per_node": 0}, {"min_mem_per_node": 131072, "cpus_per_task": 64}, {"min_mem_per_cpu": 2048, "cpus_per_task": 64},
    {"min_mem_per_cpu": 65536, "num_tasks": 2}, {"cpus_per_task": 32, "num_tasks": 4, "min_nodes": 2},
])  # fmt: skip
def test_what_fits_is_taken(submit, job: dict[str, int]) -> None:
    assert submit(**job).code == 0


def test_tasks_may_be_on_several_nodes(controller: Controller, submit) -> None:
    """Unless the job says how many nodes it wants, or is on parts of GPUs, which are on one node then."""
    spread = {"min_mem_per_cpu": 65536, "num_tasks": 3}
    part = submit(tres_per_node=None).set.get("max_nodes") is not None
    assert (submit(**spread).code != 0) is part
    assert submit(**spread, min_nodes=1).code != 0


def test_memory_for_each_gpu(controller: Controller) -> None:
    """It counts for those of one node."""
    (controller.folder / "nodes.tsv").write_text(nodes_tsv(NODES, {}))
    asked = {"tres_per_job": None, "tres_per_node": "gres:gpu:4"}
    assert controller.submit(**asked, mem_per_tres="gres:gpu:32768").code == 0
    assert MEMORY + "132 GiB" in controller.submit(**asked, mem_per_tres="gres:gpu:33792").user[0]


@pytest.mark.parametrize(
    ("partition", "mib", "largest"),
    [
        (None, 65537, "of partition main (n1) has 65536 MiB"),
        ("main", 65537, "of partition main (n1) has 65536 MiB"),
        ("main", 65536, None),
        ("cpu", 65537, None),
        ("cpu", 131073, "here (n2) has 131072 MiB"),
        ("main,cpu", 65537, None),
        ("cpu,main", 131073, "here (n2) has 131072 MiB"),
        ("unheard", 65537, None),
        ("unheard", 131073, "here (n2)"),
        ("main,unheard", 65537, None),
    ],
)
def test_partitions_have_nodes_of_their_own(
    controller: Controller, partition: str | None, mib: int, largest: str | None
) -> None:
    """A job waits for none of the other nodes; of a partition that nobody has told of, all count."""
    partitions = {"n1": ("main",), "n2": ("cpu",)}
    (controller.folder / "nodes.tsv").write_text(nodes_tsv(NODES, partitions))
    outcome = controller.submit(partition=partition, min_mem_per_node=mib)
    assert (outcome.code != 0) is (largest is not None)
    if largest is not None:
        assert f"the largest {largest}" in outcome.user[0]


@pytest.mark.parametrize("table", [None, "", "memory\n", "nodes\tx\ty\n", "\0"])
def test_without_a_usable_table_nothing_is_refused(controller: Controller, table: str | None) -> None:
    if table is not None:
        (controller.folder / "nodes.tsv").write_text(table)
    assert controller.submit(min_mem_per_node=10485760, cpus_per_task=999).code == 0


def test_unmanaged_jobs_are_slurms(controller: Controller) -> None:
    """It refuses them itself."""
    (controller.folder / "nodes.tsv").write_text(nodes_tsv(NODES, {}))
    assert controller.submit(tres_per_job=None, min_mem_per_node=10485760).code == 0


def test_what_is_not_known_of_every_node_is_not_told() -> None:
    """The largest may be the one that nobody knows."""
    unknown = Node(name="n3", gpus=0, cpus=128)
    assert nodes_tsv([*NODES, unknown], {}) == "cpus\t128\tn3\t*\ngpus\t2\tgpu\t*\t1\ngpus\t4\tgpu\t*\t1\n"
    assert nodes_tsv([], {}) == ""


CLUSTER = (
    *(Node(name=f"h{at}", gpus=4, gpu_type="h100") for at in range(3)),
    Node(name="a1", gpus=2, gpu_type="a100", state=NodeState.DOWN),
    Node(name="c1", gpus=0),
)
PARTITIONS = {"h0": ("main",), "h1": ("main",), "h2": ("big",), "a1": ("big",), "c1": ("cpu",)}
NOT_THERE = "Requested node configuration is not available: "


def asked(**tres: str) -> dict[str, str | None]:
    return {"tres_per_job": None, **{f"tres_per_{of}": f"gres/gpu:{count}" for of, count in tres.items()}}


@pytest.fixture
def cluster(controller: Controller) -> Controller:
    (controller.folder / "nodes.tsv").write_text(nodes_tsv(CLUSTER, PARTITIONS))
    return controller


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (asked(node="a100:1"), "no node of partition main has GPUs of type a100; there are h100 (8)"),
        (asked(job="9"), "the job asks for 9 GPUs, and there are 8 of partition main; ask for at most 8"),
        (asked(node="4") | {"min_nodes": 3}, "the job asks for 12 GPUs, and there are 8 of partition main"),
        (asked(node="5"), "the job asks for 5 GPUs on a node, and no node of partition main has more than 4; ask for at most 4, and more nodes"),
        (asked(task="5"), "the job asks for 5 GPUs for a task, and no node of partition main has more than 4; ask for at most 4, and more tasks"),
        (asked(job="8") | {"min_nodes": 1, "max_nodes": 1}, "the job asks for 8 GPUs on 1 node, and no node of partition main has more than 4; leave out -N or ask for -N2"),
        (asked(job="a100:3") | {"partition": "big"}, "the job asks for 3 GPUs of type a100, and there are 2 of partition big"),
        (asked(job="h100:5") | {"partition": "big,main,unheard"}, None),
        (asked(job="15") | {"partition": "unheard"}, "the job asks for 15 GPUs, and there are 14 here"),
    ],
)  # fmt: skip
def test_gpus_that_are_not_there_are_refused(cluster: Controller, job: dict[str, object], said: str | None) -> None:
    """In Slurm's words and with what is there, in the best of the job's partitions; nodes that are down count."""
    outcome = cluster.submit(**job)
    assert (outcome.code != 0) is (said is not None)
    if said is not None:
        assert NOT_THERE + said in outcome.user[0] and outcome.set == {}


@pytest.mark.parametrize(
    "job",
    [
        asked(job="8"), asked(job="5"), asked(node="4") | {"min_nodes": 2}, asked(task="4") | {"num_tasks": 2}, asked(node="h100:4"),
        asked(job="a100:2") | {"partition": "big"}, asked(job="9") | {"partition": "main,cpu"}, asked(job="8") | {"max_nodes": 0},
        asked(job="8") | {"min_nodes": 1, "max_nodes": 2},
    ],
)  # fmt: skip
def test_gpus_that_are_there_are_not(cluster: Controller, job: dict[str, object]) -> None:
    assert cluster.submit(**job).code == 0


def test_types_that_the_job_lists(cluster: Controller) -> None:
    """One of them is enough; `any` is all."""
    for types, code in (("a100", -1), ("a100,h100", 0), ("a100,any", 0)):
        assert cluster.submit(options={"SLURMEXT_GPU_TYPES": types}).code == code


def test_a_gang_that_may_start_smaller_is_measured_by_its_tasks_alone(cluster: Controller) -> None:
    gang = {"SLURMEXT_GANG_MIN": "1"}
    assert cluster.submit(options=gang, **asked(node="4"), min_nodes=8).code == 0
    assert NOT_THERE in cluster.submit(options=gang, **asked(node="5"), min_nodes=6).user[0]


def test_without_slurmextd_slurm_looks_itself(cluster: Controller) -> None:
    """The table may be old then."""
    cluster.beat(999)
    assert cluster.submit(**asked(node="a100:1")).code == 0
