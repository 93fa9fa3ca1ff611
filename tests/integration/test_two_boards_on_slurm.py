"""A profile's name that means another size on another board, on a real Slurm."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
from conftest import Site

from slurmext.devcluster import ClusterSpec, Devcluster

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("slurmctld") is None, reason="needs root and Slurm"),
]
POLICY = """\
version: 1
settings: {default_queue: research}
queues:
  research: {guaranteed: 4}
slices: {empty_for_s: 4, keep_for_s: 1}
sizes: {eighth: {gpu_slice: 1g.23gb}}
"""
SAYS = 'echo "slice $CUDA_VISIBLE_DEVICES on $SLURMD_NODENAME"'


@pytest.fixture(scope="module")
def two() -> Iterator[Site]:
    """Two nodes with B200s whose drivers give the smallest profile 22 and 20.5 GiB, under one name."""
    spec = ClusterSpec(
        name=f"two-{os.getpid()}", nodes=2, gpus=2, gpu_types=("b200", "b200_less"), users=("alice", "bob"),
        site={"daemon": {"interval_s": 5}, "agent": {"slices": {"warm_s": 2}}},
    )  # fmt: skip
    with Devcluster.up(spec) as cluster:
        site = Site(cluster)
        site.apply(POLICY)
        table = cluster.layout.slurmext_run / "slices.tsv"
        site.until(lambda: table.exists() and {"b200", "b200_less"} <= set(table.read_text().split()))
        site.until((cluster.layout.slurmext_run / "nodes.tsv").exists)
        yield site
        site.settle()
        site.store.close()


def test_a_name_of_two_sizes_is_refused_with_both_and_chosen_by_type_or_need(two: Site) -> None:
    """The error names sizes, boards and remedies; each remedy gets a slice, of the board that was meant."""
    for wanted, asked in (
        ("--gpu-slice=1g.23gb", "--gpu-slice=1g.23gb"),
        ("--size=eighth", "--size=eighth (--gpu-slice=1g.23gb)"),
    ):
        assert (
            f"{asked}: that name means 20.5 GiB on one board (b200_less) and 22 GiB on another (b200); choose with "
            "--gpu-types=b200_less or b200, or ask for --gpu-mem=20992M"
        ) in two.refused("alice", wanted)
    jobs = {
        two.submit("alice", "--gpu-slice=1g.23gb", "--gpu-types=b200", "--mem=10", script=SAYS): {"n1"},
        two.submit("alice", "--size=eighth", "--gpu-types=b200_less", "--mem=10", script=SAYS): {"n2"},
        two.submit("bob", "--gpu-mem=20992M", "--mem=10", script=SAYS): {"n1", "n2"},
        (large := two.submit("bob", "--gpu-mem=21G", "--mem=10", script=SAYS)): {"n1", "n2"},
    }
    two.until_ended(*jobs)
    got = {(one.node, one.profile) for one in two.store.slices(active=False) if one.job.job_id == large}
    assert got and ("n2", "1g.23gb") not in got
    for job, nodes in jobs.items():
        said = two.output("alice", job) + two.output("bob", job)
        assert said.startswith("slice MIG-")
        assert said.split()[-1] in nodes


def test_more_memory_than_any_node_has_is_refused_in_slurms_words(two: Site) -> None:
    """For a part of a GPU, for a whole one and for none."""
    for wanted in ("--gpu-mem=1G", "--gres=gpu:1"):
        said = two.refused("alice", wanted, "--mem=10T")
        assert "Memory specification can not be satisfied: the job asks for 10240 GiB" in said
        assert "the largest here (n1) has 64 GiB; ask for at most --mem=65536M" in said
    assert "Memory specification can not be satisfied" in two.refused("alice", "--mem=10T")
    job = two.submit("alice", "--gres=gpu:1", "--mem=65536M", script="true")
    two.until_ended(job)
    assert two.state(job) == "COMPLETED"


def test_what_nodes_have_is_told_of_each_partition(two: Site) -> None:
    """One that is made while slurmextd runs, too."""
    two.scontrol("create", "PartitionName=half", "Nodes=n2")
    table = two.cluster.layout.slurmext_run / "nodes.tsv"
    two.until(lambda: "memory\t65536\tn2\thalf\n" in table.read_text())
    assert "memory\t65536\tn1\t*\n" in table.read_text()
    assert "Memory specification can not be satisfied" in two.refused(
        "alice", "--gres=gpu:1", "-p", "half", "--mem=10T"
    )
