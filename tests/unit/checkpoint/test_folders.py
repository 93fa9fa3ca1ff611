"""Temporary directories that go with their process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from slurmext.checkpoint.folders import PREFIX, own_folder

from .programs import ROOT


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def another(temporary: Path) -> tuple[subprocess.Popen[str], Path]:
    """Another process with a directory of its own, and what that is."""
    code = "from slurmext.checkpoint.folders import own_folder; print(own_folder()[0], flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_process_left_goes_with_the_next(temporary: Path) -> None:
    """And what a living one has stays, also once another has looked."""
    dead, left = another(temporary)
    (left / "save-00000001-step-5").mkdir()
    living, held = another(temporary)
    try:
        assert left.exists()
        dead.kill()
        dead.communicate()
        mine, descriptor = own_folder()
        assert sorted(temporary.iterdir()) == sorted([held, mine])
        again, other = own_folder()
        assert sorted(temporary.iterdir()) == sorted([held, mine, again])
        os.close(descriptor)
        os.close(other)
    finally:
        living.kill()
        living.communicate()


def test_nothing_else_is_touched(temporary: Path, tmp_path: Path) -> None:
    """What a link points to, files, what is named otherwise, and another user's directories."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis").touch()
    (temporary / f"{PREFIX}link").symlink_to(tmp_path / "precious")
    (temporary / f"{PREFIX}file").touch()
    (temporary / "slurmext-other").mkdir()
    inside = temporary / f"{PREFIX}inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "precious")
    theirs = temporary / f"{PREFIX}theirs"
    theirs.mkdir()
    if os.geteuid() == 0:
        os.chown(theirs, 65534, 65534)
    else:
        theirs.rmdir()
    before = set(temporary.iterdir())
    mine, descriptor = own_folder()
    os.close(descriptor)
    assert set(temporary.iterdir()) == before - {inside} | {mine}
    assert (tmp_path / "precious" / "thesis").exists()
