"""What a devcluster may be, and what its files say, without booting one."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slurmext.config.site import load_site
from slurmext.devcluster import ClusterSpec, conf, netns, packages, ports, processes, record, wrappers
from slurmext.devcluster.errors import BadSpec
from slurmext.devcluster.spec import Layout
from slurmext.doctor.diagnosis import diagnose
from slurmext.doctor.facts import Facts, parse_config


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "Dev 2"}, "'Dev 2'"),
        ({"nodes": 0}, "nodes 0: 1 to 200"),
        ({"gpus": 65}, "gpus 65"),
        ({"release": "bullseye"}, "native, trixie, forky"),
        ({"rate": "fast"}, "--rate 1gbit"),
        ({"gpu_types": ("H 100",)}, "--gpu-type h100,a100"),
        ({"users": ("alice; rm",)}, "--users alice,bob"),
        ({"dir": Path("relative")}, "absolute"),
        ({"dir": Path("/" + "d" * 70)}, "at most 64 characters"),
    ],
)
def test_an_impossible_cluster_is_refused_with_what_is_possible(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpec, match=r".") as refusal:
        ClusterSpec(**fields)
    assert words in str(refusal.value)


def test_gpu_types_are_dealt_to_the_nodes_in_order() -> None:
    spec = ClusterSpec(nodes=5, gpu_types=("h100", "a100"))
    assert [spec.gpu_type(index) for index in range(5)] == ["h100", "h100", "h100", "a100", "a100"]


def rendered(tmp_path: Path, spec: ClusterSpec, version: tuple[int, int] = (22, 5)) -> Layout:
    layout = Layout(tmp_path)
    layout.etc.mkdir(exist_ok=True)
    names = ["slurmctld", "slurmextd", "slurmdbd", "mariadbd", *(f"slurmd@{node}" for node in spec.node_names)]
    network = conf.Network(
        ctl_host="ctl",
        ctl_addr="127.0.0.1",
        node_addrs=dict.fromkeys(spec.node_names, "127.0.0.1"),
        node_hostname=None,
        ports={name: 20000 + index for index, name in enumerate(names)},
    )
    conf.render_all(
        replace(spec, dir=tmp_path) if len(str(tmp_path)) < 65 else spec, layout, network, version=version, root=None
    )
    return layout


def test_every_node_has_its_own_line_port_and_gpu_type(tmp_path: Path) -> None:
    layout = rendered(tmp_path, ClusterSpec(nodes=2, gpus=4, gpu_types=("h100", "a100")))
    lines = [line for line in layout.slurm_conf.read_text().splitlines() if line.startswith("NodeName=")]
    assert ["Gres=gpu:h100:4" in lines[0], "Gres=gpu:a100:4" in lines[1]] == [True, True]
    assert lines[0].split()[2] != lines[1].split()[2]


def test_a_key_set_by_the_caller_replaces_ours_so_that_slurm_sees_it_once(tmp_path: Path) -> None:
    layout = rendered(tmp_path, ClusterSpec(conf={"killwait": "7", "PreemptType": "preempt/qos", "MailProg": ""}))
    text = layout.slurm_conf.read_text()
    assert [line for line in text.splitlines() if line.lower().startswith("killwait=")] == ["killwait=7"]
    assert "PreemptType=preempt/qos\n" in text
    assert "MailProg" not in text


def test_the_site_file_is_one_slurmext_accepts(tmp_path: Path) -> None:
    layout = rendered(tmp_path, ClusterSpec(name="x", site={"daemon": {"interval_s": 2}}))
    layout.site_config.chmod(0o644)
    site = load_site(layout.site_config)
    assert (site.cluster, site.daemon.interval_s, site.slurm.bin_dir) == ("x", 2, layout.bin)


def test_its_settings_give_its_own_doctor_nothing_to_say(tmp_path: Path) -> None:
    """Of slurm.conf and the site file; what the host has or lacks is another thing."""
    layout = rendered(tmp_path, ClusterSpec())
    layout.site_config.chmod(0o644)
    waits_s = load_site(layout.site_config).staging.prolog_wait_s
    assert diagnose(Facts(config=parse_config(layout.slurm_conf.read_text()), prolog_wait_s=waits_s)) == []


def test_a_cluster_without_gpus_names_none(tmp_path: Path) -> None:
    layout = rendered(tmp_path, ClusterSpec(gpus=0))
    assert "Gres=" not in layout.slurm_conf.read_text()
    assert "File=" not in (layout.etc / "gres.conf").read_text()


def test_what_was_booted_is_read_back_as_it_was(tmp_path: Path) -> None:
    spec = ClusterSpec(name="x", dir=Path("/tmp/x"), users=("alice",), conf={"KillWait": "5"})
    before = record.Record(spec=spec, ports={"slurmctld": 1}, version=(24, 11), isolated=True, subnet="198.18.1")
    text = json.dumps(json.loads(json.dumps(record.as_json(before))))
    assert record.from_json(json.loads(text), Path("/tmp/x")) == before


def test_a_directory_without_a_cluster_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match="no devcluster in"):
        record.Record.load(tmp_path)


def test_free_ports_are_distinct_and_not_listened_on() -> None:
    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        found = ports.free_ports(50)
        assert len(set(found)) == 50
        assert busy.getsockname()[1] not in found


def test_links_of_a_root_lead_into_the_root(tmp_path: Path) -> None:
    (tmp_path / "etc/alternatives").mkdir(parents=True)
    (tmp_path / "usr/sbin").mkdir(parents=True)
    (tmp_path / "usr/sbin/slurmd-wlm").touch()
    (tmp_path / "etc/alternatives/slurmd").symlink_to("/usr/sbin/slurmd-wlm")
    (tmp_path / "usr/sbin/slurmd").symlink_to("/etc/alternatives/slurmd")
    assert wrappers.in_root(tmp_path, "/usr/sbin/slurmd") == tmp_path / "usr/sbin/slurmd-wlm"
    assert wrappers.in_root(tmp_path, "/usr/sbin/absent") is None


def test_rates_are_counted_in_bits() -> None:
    assert (netns.bits_per_s("1gbit"), netns.bits_per_s("100mbit")) == (10**9, 10**8)


def test_packages_are_missing_when_their_proof_is() -> None:
    assert packages.missing({"/nonexistent/header.h": "libx-dev", "sh": "dash", "no-such-program": "nsp"}) == [
        "libx-dev",
        "nsp",
    ]


def test_a_reused_pid_is_not_taken_for_the_component(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.pids.mkdir(parents=True)
    (layout.pids / "slurmctld").write_text("1 999999999\n")
    assert processes.pid_of("slurmctld", layout) is None
