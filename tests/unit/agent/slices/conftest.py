"""A simulated node's slices, and the driver that every process of the node loads."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slurmext.testing.nvml import ENVIRONMENT, build

from .node import Node


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled driver. The dynamic linker takes it for the one that pynvml loads later: their names are the same."""
    path = build(tmp_path_factory.mktemp("nvml"))
    ctypes.CDLL(str(path))
    return path


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory others may pass through (pytest's own is 0700), with a path short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="sx", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def new_node(library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Node]]:
    """Makes this machine a node with GPUs of these types."""
    import pynvml

    monkeypatch.setenv(ENVIRONMENT, "")
    nodes: list[Node] = []

    def make(*types: str, **more: Any) -> Node:
        nodes.append(Node(folder, *types, **more))
        return nodes[-1]

    yield make
    for node in nodes:
        node.keeper.stop()
    while True:
        try:
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            break
