"""A simulated node: the driver compiled once, loaded into this process under the name that pynvml asks for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slurmext.testing.nvml import ENVIRONMENT, SimulatedGpus, build


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled driver. The dynamic linker takes it for the one that pynvml loads later: their names are the same."""
    path = build(tmp_path_factory.mktemp("nvml"))
    ctypes.CDLL(str(path))
    return path


@pytest.fixture
def new_node(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SimulatedGpus]]:
    """Makes this machine a node with GPUs of these types."""
    import pynvml

    def make(*gpu_types: str, **more: Any) -> SimulatedGpus:
        gpus = SimulatedGpus.create(tmp_path / "gpus", gpu_types, **more)
        monkeypatch.setenv(ENVIRONMENT, str(gpus.path))
        return gpus

    yield make
    while True:
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            break
