"""A node with real device nodes (nobody is behind them) and other users who try to open them."""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from slurmext.adapters.devices import NvidiaDevices
from slurmext.adapters.nvml import NvmlSliceDriver
from slurmext.testing.nvml import ENVIRONMENT, SimulatedGpus, build

OWNER, HOSTILE = 61_234, 61_235

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="device nodes are made and given away by root")


def as_user(uid: int, do: Callable[[], str], *, stays: bool = False) -> tuple[int, str]:
    """Run it in a child that has become that user for good; its pid and what it said. With `stays` until it is killed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        parent = os.getppid()
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os.write(write, do().encode() or b"-")
            while stays and os.getppid() == parent:
                time.sleep(1)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as told:
        said = os.read(told.fileno(), 65536).decode()
    if not stays:
        os.waitpid(pid, 0)
    return pid, said


def try_each(paths: Sequence[Path]) -> str:
    """For each path `opened` (there is no device behind it, so ENXIO) or why not."""
    said: list[str] = []
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            said.append("opened")
        except OSError as error:
            said.append("opened" if error.errno == errno.ENXIO else errno.errorcode[error.errno or 0])
    return " ".join(said)


def opened(uid: int, *paths: Path) -> list[str]:
    """What a process of that user gets for each path."""
    return as_user(uid, lambda: try_each(paths))[1].split()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that everybody may enter. Not one of pytest's: each session that starts closes those of all others."""
    with tempfile.TemporaryDirectory(prefix="sx", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory, open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> SimulatedGpus:
    """Two H100 in MIG mode, under a directory that everybody may enter."""
    ctypes.CDLL(str(build(tmp_path_factory.getbasetemp() / "nvml")))
    folder = open_folder
    gpus = SimulatedGpus.create(folder / "gpus", ("h100", "h100"), root=folder / "root")
    monkeypatch.setenv(ENVIRONMENT, str(gpus.path))
    gpus.set_mig(True)
    return gpus


@pytest.fixture
def driver(node: SimulatedGpus) -> Iterator[NvmlSliceDriver]:
    driver = NvmlSliceDriver(patience_s=0.2)
    yield driver
    driver.release()


@pytest.fixture
def devices(node: SimulatedGpus) -> NvidiaDevices:
    return NvidiaDevices(node.root)
