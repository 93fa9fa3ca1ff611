"""Checkpoint tests run as if outside of Slurm, and leave the process's signals as they were."""

from __future__ import annotations

import os
import signal

import pytest


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM", "WORLD_SIZE", "RANK"))]:
        monkeypatch.delenv(name)
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)
