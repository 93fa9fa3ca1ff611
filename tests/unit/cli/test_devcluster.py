"""`slurmext devcluster` as people type it, without booting one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click.testing
import pytest

from slurmext.cli.main import cli
from slurmext.devcluster import ClusterSpec, Devcluster
from slurmext.devcluster.record import Record
from slurmext.devcluster.spec import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOBODY = 65534


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
        (layout.nvml / "n1.gpus").touch()
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_shell_of_a_user_who_does_not_exist_says_how_to_make_one(booted: Path) -> None:
    result = devcluster("shell", "--user", "no-such-carol", "--dir", str(booted))
    assert result.exit_code == 2
    assert "no user 'no-such-carol' on this host" in result.output
    assert "devcluster up --users no-such-carol" in result.output
