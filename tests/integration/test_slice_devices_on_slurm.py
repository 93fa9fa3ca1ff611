"""A real Slurm that constrains devices: a slice job asks it for no GPU, opens its own all the same, and nobody else's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest
from conftest import SLICED_POLICY, STALE_S, Site

from slurmext.adapters.devices.cgroups import Hierarchies
from slurmext.devcluster import ClusterSpec, Devcluster

HERE = Hierarchies.of_this_node()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(
        HERE.devices is None or not os.access(HERE.devices, os.W_OK),
        reason="no cgroup v1 of devices to be written here",
    ),
]

OPEN_ALL = """
for node in DEV/nvidia? DEV/nvidia-caps/*; do
  answer=$(head -c 0 $node 2>&1 | sed 's/.*: //'); echo "$1 ${node##*/} ${answer:-opened}"
done
"""
JOB = """
echo "slice $CUDA_VISIBLE_DEVICES"
while [ ! -e FOLDER/go ]; do sleep 0.1; done
sh FOLDER/open_all batch
srun --mpi=none --mem=0 -n1 sh FOLDER/open_all step
"""
NOBODY_THERE, NOT_BY_CGROUP, NOT_BY_OWNER = "No such device or address", "Operation not permitted", "Permission denied"
"""No GPU is behind the nodes, so one that may be opened is not there."""


@pytest.fixture(scope="module")
def constrained() -> Iterator[Site]:
    """One node with 2 GPUs, its gres.conf and cgroups as on a site with ConstrainDevices=yes."""
    if os.geteuid() != 0:
        pytest.skip("needs root: slurmd runs jobs as their users")
    assert HERE.devices is not None
    spec = ClusterSpec(
        name=f"test-devices-{os.getpid()}", nodes=1, gpus=2, cpus=8, users=("alice", "bob"),
        conf={"ProctrackType": "proctrack/cgroup", "TaskPlugin": "task/cgroup"},
        site={"daemon": {"interval_s": 2, "heartbeat_stale_s": STALE_S}},
    )  # fmt: skip
    with Devcluster.up(spec) as cluster:
        root, etc = cluster.gpus("n1").root, cluster.layout.etc
        (etc / "cgroup.conf").write_text(
            f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={HERE.devices.parent}\nConstrainDevices=yes\n"
        )
        (etc / "gres.conf").write_text(f"AutoDetect=off\nNodeName=n1 Name=gpu Type=h100 File={root}/dev/nvidia[0-1]\n")
        cluster.restart("slurmctld")
        cluster.restart("slurmd@n1")
        site = Site(cluster)
        site.apply(SLICED_POLICY)
        site.until((cluster.layout.slurmext_run / "slices.tsv").exists)
        yield site
        cluster.cancel_all()
        site.store.close()
    # slurmd leaves its cgroups, empty, for the next one.
    for left in sorted(HERE.devices.parent.glob("*/slurm_n1/**/"), key=lambda path: -len(path.parts)):
        with suppress(OSError):
            left.rmdir()


def opened(site: Site, user: str, job: str, where: str) -> dict[str, str]:
    """What it got for each device node."""
    words = (line.split(maxsplit=2) for line in site.output(user, job).splitlines() if line.startswith(where))
    return {node: answer for _, node, answer in words}


def test_users_open_their_own_slices_only(constrained: Site) -> None:
    """Two users on one GPU, another shares the second one: in batch script and step each opens what it has."""
    root = constrained.cluster.gpus("n1").root
    folder = constrained.cluster.dir / "scratch"
    (folder / "open_all").write_text(OPEN_ALL.replace("DEV", f"{root}/dev"))
    script = JOB.replace("FOLDER", str(folder))
    asked = (("alice", "--gpu-slice=1g.10gb"), ("bob", "--gpu-slice=1g.10gb"), ("bob", "--gpu-share=25%,mem=10G"))
    jobs = [(user, constrained.submit(user, option, "--ntasks=1", "--mem=10", script=script)) for user, option in asked]
    constrained.until(lambda: all("slice" in constrained.output(user, job) for user, job in jobs), 60)
    (folder / "go").touch()
    constrained.until(lambda: all(constrained.state(job) == "COMPLETED" for _, job in jobs), 60)
    gpus: dict[str, str] = {}
    caps: dict[str, set[str]] = {}
    for user, job in jobs:
        for where in ("batch", "step"):
            found = opened(constrained, user, job, where)
            own = [node for node, answer in found.items() if answer == NOBODY_THERE]
            (gpu,) = (node for node in own if "cap" not in node)
            assert gpus.setdefault(job, gpu) == gpu
            assert {found[node] for node in found if "cap" not in node and node != gpu} == {NOT_BY_CGROUP}
            assert {found[node] for node in found if "cap" in node and node not in own} == {NOT_BY_OWNER}
            caps[f"{job} {where}"] = {node for node in own if "cap" in node}
    ours, theirs, shares = (job for _, job in jobs)
    assert caps[f"{ours} batch"] == caps[f"{ours} step"]
    assert caps[f"{theirs} batch"] == caps[f"{theirs} step"]
    assert (len(caps[f"{ours} step"]), len(caps[f"{theirs} step"])) == (2, 2)
    assert caps[f"{ours} step"].isdisjoint(caps[f"{theirs} step"])
    assert gpus[ours] == gpus[theirs] != gpus[shares]
