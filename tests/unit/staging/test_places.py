"""Where a job's model is: in the roots it was told, in one of several revisions, or where it is stored."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slurmext.staging.errors import BadReference, NotStaged, StagingError
from slurmext.staging.loader import load, path
from slurmext.staging.names import ModelKey
from slurmext.staging.places import DEFAULT_ROOTS, FALLBACK, ROOTS, fallback_text, parse_fallback, searched

from .conftest import stage, write_model

pytest.importorskip("numpy")


def test_a_model_itself_may_be_a_root(memory, tmp_path, monkeypatch):
    """Then a name without revision means that one."""
    one = stage(memory / "t", write_model(tmp_path / "one", seeds=(1,)), "org/m", revision="v1")
    two = stage(memory / "t", write_model(tmp_path / "two", seeds=(2,)), "org/m", revision="v2")
    with pytest.raises(BadReference, match="org/m@v1, org/m@v2"):
        path("org/m", roots=str(memory / "t"))
    assert path("org/m@v2", roots=str(memory / "t")) == two
    monkeypatch.setenv(ROOTS, f"{two}:{one.parent.parent / 'absent'}")
    assert path("org/m") == two
    with pytest.raises(NotStaged):
        path("org/m@v1")


def test_the_fallback_is_used_and_said(tmp_path, monkeypatch, caplog):
    """The storage of this model, not of another; names and revisions as for staged ones."""
    odd = write_model(tmp_path / "a:b=c%d")
    told = {ModelKey("org/m", "v1"): odd, ModelKey("org/other", "v1"): tmp_path}
    monkeypatch.setenv(ROOTS, str(tmp_path / "none"))
    monkeypatch.setenv(FALLBACK, fallback_text(told))
    assert parse_fallback(os.environ[FALLBACK]) == {str(key): place for key, place in told.items()}
    with caplog.at_level(logging.WARNING):
        weights = load("org/m", framework="numpy")
    assert weights.directory == odd
    assert weights["layer.0"].nbytes == 1 << 20
    assert f"not staged on this node: reading it from {odd}" in caplog.text
    assert path("org/m@v1") == odd
    with pytest.raises(NotStaged, match="--preload=org/m@v2"):
        path("org/m@v2")
    monkeypatch.setenv(FALLBACK, str(tmp_path))
    assert path("org/m@v2") == tmp_path


def test_what_is_staged_comes_before_the_fallback(memory, tmp_path, monkeypatch):
    """And what is staged in part does not."""
    files = write_model(tmp_path / "m")
    staged = stage(memory / "t", files, "org/m")
    stage(memory / "u", files, "org/m", complete=False)
    monkeypatch.setenv(FALLBACK, f"org/m@v1={files}")
    assert path("org/m", roots=str(memory / "t")) == staged
    assert path("org/m", roots=str(memory / "u")) == files


def test_a_hub_cache_is_a_fallback_too(tmp_path, monkeypatch):
    """Its snapshot of the revision, or of main."""
    cache = tmp_path / "models--org--m"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("abc\n")
    (cache / "blobs").mkdir()
    write_model(cache / "snapshots" / "abc")
    monkeypatch.setenv(ROOTS, str(tmp_path / "none"))
    monkeypatch.setenv(FALLBACK, f"org/m@abc={cache}")
    assert path("org/m") == cache / "snapshots" / "abc"
    monkeypatch.setenv(FALLBACK, str(cache))
    assert path("org/m") == cache / "snapshots" / "abc"
    (cache / "refs" / "main").write_text("def")
    with pytest.raises(StagingError, match="no snapshot"):
        path("org/m")


def test_nobody_plants_models_where_none_were_asked_for(tmp_path):
    """The default directories count only when they are root's (or the job's own): anyone can make one in /dev/shm."""
    mine, roots = tmp_path / "mine", tmp_path / "roots"
    for folder in (mine, roots):
        folder.mkdir()
    code = "import sys, slurmext.staging.places as p; p.DEFAULT_ROOTS = ':'.join(sys.argv[1:]); print(p.searched())"
    if os.geteuid() != 0:
        pytest.skip("giving a directory to another user takes root")
    os.chown(mine, 12345, 12345)
    environment = {name: value for name, value in os.environ.items() if name != ROOTS}
    told = subprocess.run(
        [sys.executable, "-c", code, str(mine), str(roots)], check=True, capture_output=True, text=True, env=environment
    ).stdout
    assert str(roots) in told
    assert str(mine) not in told
    assert searched(str(mine)) == [str(mine)]
    assert DEFAULT_ROOTS.startswith("/dev/shm")


def test_programs_that_read_a_directory_are_told_it(memory, tmp_path):
    """By a command that fails with a reason."""
    staged = stage(memory / "t", write_model(tmp_path / "m"), "org/m")

    def told(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, ROOTS: str(memory / "t")}
        command = [sys.executable, "-m", "slurmext.staging", *words]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)

    assert Path(told("org/m").stdout.strip()) == staged
    missing = told("org/other")
    assert missing.returncode == 1
    assert "--preload=org/other" in missing.stderr
    assert not missing.stdout
