"""`slurmext devcluster` as people type it, without booting one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click.testing
import pytest

from slurmext.cli.main import cli
from slurmext.cli.session import way_in
from slurmext.devcluster import ClusterSpec, Devcluster
from slurmext.devcluster.boot import unknown_types
from slurmext.devcluster.record import Record
from slurmext.devcluster.spec import BASE, Layout, chosen
from slurmext.testing.nvml import SimulatedGpus

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")


def devcluster(*words: str) -> click.testing.Result:
    return click.testing.CliRunner().invoke(cli, ["devcluster", *words])


@pytest.fixture
def booted() -> Iterator[Path]:
    """What `up` leaves of a cluster that everyone may read; no process of it runs."""
    with tempfile.TemporaryDirectory(prefix="sx-", dir="/tmp") as name:  # tmp_path is closed to others
        directory = Path(name)
        layout = Layout(directory)
        for path in (layout.home, layout.pids, layout.nvml):
            path.mkdir(parents=True)
        for path in (directory, layout.home):
            path.chmod(0o777)
        SimulatedGpus.create(layout.nvml / "n1.gpus", ("h100", "h100"))
        Record(spec=ClusterSpec(dir=directory, nodes=1), ports={}, version=(22, 5), isolated=False).save()
        yield directory


@pytest.fixture
def ordinary_user() -> Iterator[None]:
    """The test itself is no longer root's; what it needs of the package is loaded."""
    Devcluster.list()
    devcluster("--help")
    before = os.geteuid()
    os.seteuid(before or _NOBODY)
    yield
    os.seteuid(before)


@pytest.mark.usefixtures("ordinary_user")
@pytest.mark.parametrize(
    "words",
    [
        ["down"],
        ["down", "--keep"],
        ["stop", "slurmctld"],
        ["restart", "slurmctld"],
        ["gpus", "n1", "--utilisation", "0"],
        ["shell", "--user", "root"],
    ],
    ids=" ".join,
)
def test_what_only_root_may_do_says_so_before_anything_is_touched(booted: Path, words: list[str]) -> None:
    before = sorted(booted.rglob("*"))
    result = devcluster(*words, "--dir", str(booted))
    assert (result.exit_code, "only root" in result.output, "sudo" in result.output) == (2, True, True), result
    assert sorted(booted.rglob("*")) == before


@root_only
def test_a_shell_of_a_user_who_does_not_exist_says_how_to_make_one(booted: Path) -> None:
    result = devcluster("shell", "--user", "no-such-carol", "--dir", str(booted))
    assert result.exit_code == 2
    assert "no user 'no-such-carol' on this host" in result.output
    assert "devcluster up --users no-such-carol" in result.output


@root_only
def test_what_was_done_is_said(booted: Path) -> None:
    """And when nothing was, or nothing was asked for."""
    told = devcluster("gpus", "n1", "--gpu", "1", "--utilisation", "0", "--dir", str(booted))
    assert (told.exit_code, told.output) == (0, "n1, GPU 1: utilisation 0\n")
    told = devcluster("gpus", "n1", "--dir", str(booted))
    assert (told.exit_code, "--utilisation 0" in told.output) == (2, True)
    told = devcluster("stop", "slurmctld", "--dir", str(booted))
    assert (told.exit_code, told.output) == (0, "slurmctld did not run\n")


def test_a_cluster_that_is_not_there_is_named_as_it_was_asked_for() -> None:
    told = devcluster("stop", "slurmctld", "--name", "no-such-one")
    assert told.exit_code == 2
    assert "`slurmext devcluster up --name no-such-one`" in told.output


def test_taking_down_what_is_down_already_is_no_error_unless_it_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMEXT_DEVCLUSTER", str(tmp_path))  # as in a shell of a cluster that has gone
    told = devcluster("down")
    assert (told.exit_code, told.output) == (0, f"no devcluster in {tmp_path}: nothing to do\n")
    assert devcluster("down", "--dir", str(tmp_path)).exit_code == 2


def test_types_without_a_card_of_that_name_are_known_before_booting() -> None:
    kinds = ("h100", "h100_sxm", "voodoo", "voodoo")
    assert unknown_types(ClusterSpec(gpu_types=kinds)) == ["voodoo"]
    assert unknown_types(ClusterSpec(gpu_types=kinds, plain=True)) == []


def test_a_cluster_is_named_on_the_command_line_by_what_is_needed() -> None:
    told = [chosen(BASE / "dev"), chosen(BASE / "mine"), chosen(Path("/a b/c"))]
    assert told == ["", " --name mine", " --dir '/a b/c'"]


def test_a_host_without_slurmext_leads_to_the_devcluster_that_runs(booted: Path) -> None:
    cluster = Devcluster.attach(booted)
    assert way_in([cluster]) == ""
    started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    (cluster.layout.pids / "slurmctld").write_text(f"{os.getpid()} {started}\n")
    assert way_in([cluster]).endswith(f" devcluster shell --dir {booted}`")
