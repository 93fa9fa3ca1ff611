"""A real Slurm that constrains devices: a slice job asks it for no GPU, and opens its own all the same."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slurmext.adapters.devices import NvidiaDevices
from slurmext.adapters.devices.cgroups import Hierarchies
from slurmext.devcluster import Devcluster
from slurmext.model.mig import GpuCard

pytestmark = pytest.mark.cluster

HERE = Hierarchies.of_this_node()
CARD = GpuCard(uuid="GPU-0", minor=0, index=0, name="NVIDIA H100 80GB HBM3", memory_mib=81_559)
SCRIPT = """#!/bin/sh
echo $$ > {folder}/pid
while [ ! -e {folder}/go ]; do sleep 0.1; done
for gpu in 0 1; do head -c 0 {dev}/nvidia$gpu 2>&1 | sed 's/.*: //'; done > {folder}/later
srun -n1 sh -c 'for gpu in 0 1; do head -c 0 {dev}/nvidia$gpu 2>&1 | sed "s/.*: //"; done' > {folder}/step
"""
DENIED, NOBODY_THERE = "Operation not permitted", "No such device or address"


def wait_for(path: Path, lines: int = 1) -> list[str]:
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        if path.exists() and len(found := path.read_text().splitlines()) >= lines:
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing in {path}")


@pytest.mark.skipif(HERE.devices is None or not os.access(HERE.devices, os.W_OK), reason="no cgroup v1 of devices here")
def test_a_slice_job_opens_its_gpu_under_constrain_devices(new_cluster: Callable[..., Devcluster]) -> None:
    """Slurm denies it all GPUs at each level of its cgroups; once admitted, the job has its own and no other."""
    assert HERE.devices is not None
    cluster = new_cluster(
        nodes=1, gpus=2, cpus=4, conf={"ProctrackType": "proctrack/cgroup", "TaskPlugin": "task/cgroup"}
    )
    root = cluster.gpus("n1").root
    assert root is not None
    etc = cluster.layout.etc
    (etc / "cgroup.conf").write_text(
        f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={HERE.devices.parent}\nConstrainDevices=yes\n"
    )
    (etc / "gres.conf").write_text(f"AutoDetect=off\nNodeName=n1 Name=gpu Type=h100 File={root}/dev/nvidia[0-1]\n")
    for component in ("slurmctld", "slurmd@n1"):
        cluster.stop(component)
        cluster.start(component)
    folder = cluster.home("alice") / "slices"
    folder.mkdir()
    os.chown(folder, folder.parent.stat().st_uid, -1)
    script = folder / "job.sh"
    script.write_text(SCRIPT.format(folder=folder, dev=root / "dev"))
    done = cluster.run(["sbatch", "--parsable", "-n1", "--mem=10", "-o", "/dev/null", str(script)], user="alice")
    job_id = int(done.stdout.split(";")[0])
    pid = int(wait_for(folder / "pid")[0])
    devices = NvidiaDevices(root, hierarchies=Hierarchies(unified=None, devices=HERE.devices))
    assert devices.admit(pid, [(CARD, None)], job_id=job_id + 1) == ""
    assert devices.admit(pid, [(CARD, None)], job_id=job_id) == "v1"
    (folder / "go").touch()
    assert wait_for(folder / "later", 2) == [NOBODY_THERE, DENIED]
    # A step's cgroup is a new one: it is admitted when its own task starts.
    assert wait_for(folder / "step", 2) == [DENIED, DENIED]
