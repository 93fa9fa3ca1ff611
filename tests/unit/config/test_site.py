"""The site file: defaults, mistakes, and what root refuses to read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slurmext.config.site import UntrustedFileError, load_site
from slurmext.config.yaml_errors import ConfigError
from slurmext.errors import SlurmextError

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root distrusts files")


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_two_lines_make_a_site(tmp_path: Path) -> None:
    """Everything but version and cluster has a default."""
    site = load_site(write(tmp_path / "s.yaml", "version: 1\ncluster: dev\n"))
    assert site.run_dir == Path("/run/slurmext")
    assert site.managed.require_gpu


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURMEXT_CONF is used when no path is given."""
    monkeypatch.setenv("SLURMEXT_CONF", str(write(tmp_path / "s.yaml", "version: 1\ncluster: here\n")))
    assert load_site().cluster == "here"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clustr: x", ":2: clustr: unknown key, did you mean 'cluster'?"),
        ("cluster: x\ndaemon: {listen: 6830}", ":3: daemon.listen: "),
        ("cluster: x\ndaemon: {listen: ':6830'}", "must be HOST:PORT, for example 'ctl:6830'"),
        ("cluster: x\ndaemon: {listen: 'h:99999'}", "must be HOST:PORT"),
        ("cluster: x\nrun_dir: run", "must be an absolute path"),
        ("cluster: x\ndatabase: oracle://h/d", "must be a database URL"),
        ("cluster: x\ndatabase: sqlite:///state.db", "needs an absolute path, so four slashes"),
        ("cluster: x\ndaemon: {interval_s: 0}", "daemon.interval_s: input should be greater than 0"),
        ("cluster: x\noptions: {prefix: 'A b'}", "options.prefix: "),
        ("cluster: x\nmanaged: {partitions: gpu}", "managed.partitions: "),
        ("cluster: 'x y'", "cluster: "),
        ("cluster: x\ndatabase: postgresql://u:geheim@h/d", ":3: database: has a password, and every user may read"),
    ],
)
def test_a_mistake_names_file_line_and_key_and_shows_no_password(tmp_path: Path, text: str, message: str) -> None:
    """The message teaches; a password never stands in it."""
    path = write(tmp_path / "s.yaml", f"version: 1\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load_site(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    """Install or --config."""
    with pytest.raises(SlurmextError, match="slurmext install"):
        load_site(tmp_path / "none.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe", b""])
def test_a_file_that_is_no_yaml_text_is_refused(tmp_path: Path, content: bytes) -> None:
    """Bytes and nothing."""
    path = tmp_path / "s.yaml"
    path.write_bytes(content)
    with pytest.raises(SlurmextError):
        load_site(path)


def test_a_pipe_is_no_site_file(tmp_path: Path) -> None:
    """Opening it does not wait for a writer."""
    os.mkfifo(tmp_path / "s.yaml")
    with pytest.raises(SlurmextError, match="not a regular file"):
        load_site(tmp_path / "s.yaml")


def test_a_database_url_can_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    """So that the password is root's alone."""
    secret = write(tmp_path / "url", "postgresql+psycopg://u:pw@h/d\n", 0o600)
    site = load_site(write(tmp_path / "s.yaml", f"version: 1\ncluster: x\ndatabase: file:{secret}\n"))
    assert site.database == "postgresql+psycopg://u:pw@h/d"


@root_only
@pytest.mark.parametrize("mode", [0o664, 0o666, 0o646])
def test_root_refuses_a_file_others_can_write(tmp_path: Path, mode: int) -> None:
    """Group or world."""
    with pytest.raises(UntrustedFileError, match="chmod go-w"):
        load_site(write(tmp_path / "s.yaml", "version: 1\ncluster: x\n", mode))


@root_only
def test_root_refuses_a_file_of_another_user(tmp_path: Path) -> None:
    """An owner can always write."""
    path = write(tmp_path / "s.yaml", "version: 1\ncluster: x\n")
    os.chown(path, 65534, 65534)
    with pytest.raises(UntrustedFileError, match="uid 65534"):
        load_site(path)


@root_only
def test_root_refuses_a_file_in_a_folder_others_can_write(tmp_path: Path) -> None:
    """Who can write the folder can replace the file; a link does not hide that."""
    folder = tmp_path / "open"
    folder.mkdir()
    path = write(folder / "s.yaml", "version: 1\ncluster: x\n")
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    folder.chmod(0o777)
    for name in (path, link):
        with pytest.raises(UntrustedFileError, match=str(folder)):
            load_site(name)
