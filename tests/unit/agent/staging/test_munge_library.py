"""Credentials made in this process are munge's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.staging.conftest import munged
from slurmext.adapters.munge import MungeAuth, MungeError
from slurmext.adapters.munge_library import LibraryMunge, find_munge


@pytest.fixture
def socket() -> Iterator[Path]:
    """A munged of this test's own."""
    with munged() as place:
        yield place


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
