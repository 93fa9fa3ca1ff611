"""Credentials made in this process are munge's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurmext.adapters.munge import MungeAuth, MungeError
from slurmext.adapters.munge_library import LibraryMunge, find_munge


@pytest.fixture
def socket() -> Iterator[Path]:
    """A munged of this test's own."""
    munged = shutil.which("munged", path="/usr/sbin:/usr/bin")
    if munged is None or os.geteuid() != 0:
        pytest.skip("needs munged and root")
    # Munge wants a path that nobody else can write to.
    place = Path(tempfile.mkdtemp(prefix="slurmext-munge-", dir="/run"))
    place.chmod(0o755)
    (place / "key").write_bytes(os.urandom(128))
    (place / "key").chmod(0o400)
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    words = [f"--{option}={place / name}" for option, name in names.items()]
    process = subprocess.Popen([munged, "--foreground", *words], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 10
    while not (place / "socket").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    yield place / "socket"
    process.terminate()
    process.wait()
    shutil.rmtree(place)


def test_library_and_programs_understand_each_other(socket):
    """Payloads of any bytes, and the maker's uid; each credential once."""
    library = find_munge(socket=socket)
    assert isinstance(library, LibraryMunge)
    programs = MungeAuth.find(socket=socket)
    payload = bytes(range(256))
    credential = library.encode(payload)
    assert (made := programs.decode(credential)).payload == payload and made.uid == os.geteuid()
    assert library.decode(programs.encode(payload)).payload == payload
    assert library.decode(library.encode(b"")).payload == b""
    with pytest.raises(MungeError, match="Replayed"):
        library.decode(credential)
    with pytest.raises(MungeError):
        library.decode("MUNGE:é:")


def test_without_munged_the_reason_is_said(tmp_path):
    """And the caller goes on."""
    with pytest.raises(MungeError, match="munge"):
        find_munge(socket=tmp_path / "absent").encode(b"x")
