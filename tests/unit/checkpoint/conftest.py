"""Checkpoint tests run as if outside of Slurm, and leave the process's signals as they were."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .programs import forbidden


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM", "WORLD_SIZE", "RANK"))]:
        monkeypatch.delenv(name)
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.fixture
def one_thread():
    """So that PyTorch adds up in one order, and does not wait for the cores of others."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def out_of_reach(tmp_path: Path) -> Iterator[Path]:
    """A directory in somebody's home that this process may not even look into."""
    home = tmp_path / "home"
    home.mkdir()
    with forbidden(home, mode=0):
        yield home / "checkpoints"
