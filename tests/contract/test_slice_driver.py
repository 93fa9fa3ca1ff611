"""What every SliceDriver does: the one over NVML, and the one in memory that tests use."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slurmext.adapters.nvml import NvmlSliceDriver
from slurmext.errors import GpuDriverError, GpuInUse, GpuNeedsReset, GpuOtherInstance, GpuPlaceTaken
from slurmext.model.mig import MigInstance
from slurmext.ports import SliceDriver
from slurmext.testing.nvml import ENVIRONMENT, SimulatedGpus, build
from slurmext.testing.slice_driver import FakeSliceDriver

CARDS = ("h100", "a100", "t4", "rtx_pro_6000")


@dataclass
class Node:
    driver: SliceDriver
    gpus: list[str]
    hold: Callable[[str, MigInstance | None], None]
    let_go: Callable[[], None]


def fake(mig: bool) -> Node:
    driver = FakeSliceDriver(CARDS, mig=mig)
    gpus = [card.uuid for card in driver.cards()]
    return Node(driver, gpus, lambda gpu, one: driver.hold(gpu, os.getpid(), one),
                lambda: [driver.let_go(gpu) for gpu in gpus] and None)  # fmt: skip


@pytest.fixture(params=["nvml", "fake"])
def node_of(request: Any, tmp_path: Path, monkeypatch: Any, tmp_path_factory: Any) -> Iterator[Callable[..., Node]]:
    made: list[SliceDriver] = []

    def make(*, mig: bool = True) -> Node:
        if request.param == "fake":
            return fake(mig)
        ctypes.CDLL(str(build(tmp_path_factory.getbasetemp() / "nvml")))
        gpus = SimulatedGpus.create(tmp_path / "gpus", CARDS)
        monkeypatch.setenv(ENVIRONMENT, str(gpus.path))
        gpus.set_mig(mig)
        uuids = [gpus.uuid(index) for index in range(len(gpus))]
        made.append(NvmlSliceDriver(patience_s=0.1))
        return Node(
            made[-1],
            uuids,
            lambda gpu, one: gpus.hold(uuids.index(gpu), os.getpid(), gi=None if one is None else one.gi),
            lambda: gpus.let_go(os.getpid()),
        )

    yield make
    for driver in made:
        driver.release()


def test_cards(node_of: Callable[..., Node]) -> None:
    """By minor number, with what they can be cut into; Ampere tells in MIG mode only."""
    sliced, whole = node_of().driver.cards(), node_of(mig=False).driver.cards()
    assert [card.minor for card in sliced] == [0, 1, 2, 3]
    assert [card.mig for card in sliced] == [True, True, None, True]
    assert [card.mig for card in whole] == [False, False, None, False]
    assert [card.geometry is not None for card in whole] == [True, False, False, True]
    geometries = [card.geometry for card in sliced]
    assert [(one.memory_units, one.compute_slices) if one else None for one in geometries] == [
        (8, 7), (8, 7), None, (12, 4),
    ]  # fmt: skip


def test_an_instance_comes_and_goes(node_of: Callable[..., Node]) -> None:
    node = node_of()
    gpu = node.gpus[0]
    made = node.driver.create(gpu, "2g.20gb", 2)
    assert (made.gpu, made.profile, made.profile_id, made.start) == (gpu, "2g.20gb", 14, 2)
    assert made.uuid
    assert node.driver.instances(gpu) == (made,)
    node.driver.destroy(made)
    node.driver.destroy(made)
    assert node.driver.instances(gpu) == ()
    again = node.driver.create(gpu, "2g.20gb", 2)
    assert again.uuid != made.uuid
    with pytest.raises(GpuOtherInstance):
        node.driver.destroy(made)
    assert node.driver.instances(gpu) == (again,)


@pytest.mark.parametrize(("profile", "start"), [("1g.10gb", 5), ("1g.10gb", 7), ("3g.40gb", 2), ("5g.1gb", 0)])
def test_places_that_cannot_be_had(node_of: Callable[..., Node], profile: str, start: int) -> None:
    node = node_of()
    node.driver.create(node.gpus[0], "3g.40gb", 4)
    with pytest.raises(GpuPlaceTaken):
        node.driver.create(node.gpus[0], profile, start)
    assert len(node.driver.instances(node.gpus[0])) == 1


def test_who_uses_what(node_of: Callable[..., Node]) -> None:
    """An instance in use stays, its sibling goes; a GPU in use is not cut, nor one with instances turned whole."""
    node = node_of()
    gpu = node.gpus[0]
    used, idle = node.driver.create(gpu, "1g.10gb", 0), node.driver.create(gpu, "1g.10gb", 1)
    node.hold(gpu, used)
    assert [one.pid for one in node.driver.processes(gpu, used)] == [os.getpid()]
    assert node.driver.processes(gpu, idle) == ()
    assert len(node.driver.processes(gpu)) == 1
    node.driver.destroy(idle)
    with pytest.raises(GpuInUse):
        node.driver.destroy(used)
    with pytest.raises(GpuInUse):
        node.driver.set_mig(gpu, on=False)
    node.let_go()
    node.driver.destroy(used)
    node.hold(gpu, None)
    with pytest.raises(GpuInUse):
        node.driver.create(gpu, "1g.10gb", 0)


def test_modes(node_of: Callable[..., Node]) -> None:
    node = node_of(mig=False)
    hopper, ampere, turing, _ = node.gpus
    with pytest.raises(GpuDriverError):
        node.driver.create(hopper, "1g.10gb", 0)
    node.driver.set_mig(hopper, on=True)
    node.driver.set_mig(hopper, on=True)
    assert node.driver.create(hopper, "1g.10gb", 0).uuid
    with pytest.raises(GpuNeedsReset):
        node.driver.set_mig(ampere, on=True)
    with pytest.raises(GpuDriverError):
        node.driver.set_mig(turing, on=True)
    with pytest.raises(GpuDriverError):
        node.driver.instances("GPU-0")
