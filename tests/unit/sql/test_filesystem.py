"""Where a SQLite database may lie."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from slurmext.adapters.sql.errors import DatabaseRefused
from slurmext.adapters.sql.filesystem import NETWORK_FILESYSTEMS, prepare, require_local, statfs_type


@pytest.mark.parametrize(("number", "name"), list(NETWORK_FILESYSTEMS.items()))
def test_network_filesystem_is_refused_with_the_remedy(tmp_path: Path, number: int, name: str) -> None:
    """SQLite's locks do not hold across hosts, so two daemons would both believe to be alone."""
    with pytest.raises(DatabaseRefused, match=f"is on {name}:.*local directory.*PostgreSQL"):
        prepare(tmp_path / "new" / "state.db", lambda _: number)
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_existing_directory_is_asked(tmp_path: Path) -> None:
    """A directory that does not exist yet will be on its parent's filesystem."""
    asked: list[Path] = []

    def answer(path: Path) -> int:
        asked.append(path)
        return 0

    require_local(tmp_path / "a" / "b" / "state.db", answer)
    assert asked == [tmp_path]


def test_filesystem_type_is_the_kernels(tmp_path: Path) -> None:
    """What we read from statfs is what `stat -f` prints."""
    for path in (tmp_path, Path("/proc"), Path("/dev/shm")):
        printed = subprocess.run(["stat", "-f", "-c", "%t", path], capture_output=True, text=True, check=True).stdout
        assert statfs_type(path) == int(printed, 16)


def test_new_database_is_for_its_owner_alone(tmp_path: Path) -> None:
    """File 0600 in a directory 0700, whatever the umask."""
    old = os.umask(0)
    try:
        prepare(tmp_path / "a" / "b" / "state.db")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b" / "state.db").stat().st_mode) == 0o600


def test_directory_everyone_may_write_is_refused(tmp_path: Path) -> None:
    """There anyone could put another file in the database's place."""
    tmp_path.chmod(0o777)
    with pytest.raises(DatabaseRefused, match="chmod o-w"):
        prepare(tmp_path / "state.db")
    assert list(tmp_path.iterdir()) == []


def test_link_is_not_followed(tmp_path: Path) -> None:
    """Root must not be led to create or open a file elsewhere."""
    (tmp_path / "state.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DatabaseRefused, match="cannot be created"):
        prepare(tmp_path / "state.db")
    assert not (tmp_path / "elsewhere").exists()


def test_place_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """A file in the way is named together with a path that works."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseRefused, match=r"Not a directory|File exists"):
        prepare(tmp_path / "file" / "state.db")
