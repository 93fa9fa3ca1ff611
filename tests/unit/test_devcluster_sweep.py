"""What killed devclusters left is told apart from what belongs to one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from slurmext.devcluster import processes, sweep
from slurmext.devcluster.sweep import Living, orphaned_bridges, orphaned_memory
from tests.waiting import until

CLUSTERS = Living(directories=frozenset({Path("/x/lives"), Path("/elsewhere/too")}), subnets=frozenset({"198.18.1"}))


@pytest.mark.skipif(os.geteuid() != 0, reason="only what is root's is swept")
def test_models_in_memory_are_swept_when_no_cluster_has_that_name(tmp_path: Path) -> None:
    """And when root made them: anyone may make a directory there, or a link."""
    for name in ("slurmext-dev-lives", "slurmext-dev-too", "slurmext-dev-gone", "slurmext-dev-user", "other"):
        (tmp_path / name).mkdir()
    os.chown(tmp_path / "slurmext-dev-user", 65534, 65534)
    (tmp_path / "slurmext-dev-link").symlink_to(tmp_path / "other")
    assert orphaned_memory(CLUSTERS, tmp_path) == [tmp_path / "slurmext-dev-gone"]


def test_bridges_are_swept_when_they_lead_nowhere_and_no_cluster_has_that_subnet(tmp_path: Path) -> None:
    for name, links in {"sx1": [], "sx2": [], "sx3": ["sx3n1"], "sxfoo": [], "br0": []}.items():
        (tmp_path / name / "bridge").mkdir(parents=True)
        (tmp_path / name / "brif").mkdir()
        for link in links:
            (tmp_path / name / "brif" / link).touch()
    (tmp_path / "sx4").mkdir()  # a link of another kind
    assert orphaned_bridges(CLUSTERS, tmp_path) == ["sx2"]
    assert orphaned_bridges(Living(directories=CLUSTERS.directories, subnets=None), tmp_path) == []


def test_a_cluster_elsewhere_lives_as_long_as_a_process_of_it(tmp_path: Path) -> None:
    """Its subnet counts; where it cannot be read, none can be called free."""
    environment = {processes.MARKER: str(tmp_path)}
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, env=environment) as daemon:
        until(lambda: tmp_path in processes.marked(), 10)
        assert tmp_path in sweep.living().directories
        assert sweep.living().subnets is None
        (tmp_path / "cluster.json").write_text(json.dumps({"subnet": "198.18.77"}))
        until(lambda: "198.18.77" in (sweep.living().subnets or ()), 10)  # None while another is booted or removed
        daemon.communicate()
    assert tmp_path not in sweep.living().directories
