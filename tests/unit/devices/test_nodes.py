"""Ownership of a slice's device nodes, tried by the real kernel with real users."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from slurmext.adapters.devices import NvidiaDevices
from slurmext.adapters.nvml import NvmlSliceDriver
from slurmext.errors import DeviceAccessError
from slurmext.model.mig import GpuCard, MigInstance
from slurmext.testing.nvml import SimulatedGpus
from slurmext.testing.nvml.tree import minor_of
from tests.unit.devices.conftest import HOSTILE, OWNER, as_user, needs_root, opened

pytestmark = needs_root


def nodes_of(node: SimulatedGpus, card: GpuCard, instance: MigInstance) -> list[Path]:
    caps = node.root / "dev/nvidia-caps"
    minors = (minor_of(card.minor, instance.gi), minor_of(card.minor, instance.gi, instance.ci))
    return [caps / f"nvidia-cap{minor}" for minor in minors]


def test_without_us_everybody_opens_everything(node: SimulatedGpus, driver: NvmlSliceDriver) -> None:
    """What is to be prevented: the driver makes the nodes of a new instance readable for all."""
    card = driver.cards()[0]
    made = driver.create(card.uuid, "1g.10gb", 0)
    assert opened(HOSTILE, *nodes_of(node, card, made)) == ["opened", "opened"]


def test_only_the_jobs_user_opens_its_slice(
    node: SimulatedGpus, driver: NvmlSliceDriver, devices: NvidiaDevices
) -> None:
    """Its owner does; another user gets neither that slice nor, with one of their own, the sibling."""
    card = driver.cards()[1]
    ours, theirs = driver.create(card.uuid, "1g.10gb", 0), driver.create(card.uuid, "3g.40gb", 4)
    devices.give(card, ours, uid=OWNER, job_id=7)
    devices.give(card, theirs, uid=HOSTILE, job_id=8)
    assert opened(OWNER, *nodes_of(node, card, ours)) == ["opened", "opened"]
    assert opened(HOSTILE, *nodes_of(node, card, ours)) == ["EACCES", "EACCES"]
    assert opened(HOSTILE, *nodes_of(node, card, theirs)) == ["opened", "opened"]
    assert opened(OWNER, *nodes_of(node, card, theirs)) == ["EACCES", "EACCES"]


def test_a_slice_stays_its_owners_when_root_uses_nvml(
    node: SimulatedGpus, driver: NvmlSliceDriver, devices: NvidiaDevices
) -> None:
    """nvidia-modprobe, run for a root client, sets the driver's mode on nodes that it may modify."""
    card = driver.cards()[0]
    made = driver.create(card.uuid, "2g.20gb", 2)
    devices.give(card, made, uid=OWNER, job_id=7)
    driver.instances(card.uuid)
    assert driver.processes(card.uuid, made) == ()
    assert opened(HOSTILE, *nodes_of(node, card, made)) == ["EACCES", "EACCES"]


def test_a_slice_taken_back_is_nobodys(node: SimulatedGpus, driver: NvmlSliceDriver, devices: NvidiaDevices) -> None:
    """Neither a warm one nor the nodes that a destroyed one leaves behind can be opened by the job before."""
    card = driver.cards()[0]
    made = driver.create(card.uuid, "1g.10gb", 6)
    devices.give(card, made, uid=OWNER, job_id=7)
    devices.take_back(card, made, job_id=7)
    assert opened(OWNER, *nodes_of(node, card, made)) == ["EACCES", "EACCES"]
    driver.destroy(made)
    devices.take_back(card, made, job_id=7)
    assert opened(OWNER, *nodes_of(node, card, made)) == ["EACCES", "EACCES"]
    again = driver.create(card.uuid, "1g.10gb", 6)
    assert (again.gi, again.ci) == (made.gi, made.ci)
    devices.give(card, again, uid=HOSTILE, job_id=8)
    assert opened(OWNER, *nodes_of(node, card, again)) == ["EACCES", "EACCES"]


def test_whoever_opened_it_before_it_was_given_is_found(
    node: SimulatedGpus, driver: NvmlSliceDriver, devices: NvidiaDevices
) -> None:
    """A user who waits for a new instance's nodes and keeps them open would share the slice: it is not given."""
    if not node._state.caps_major:
        pytest.skip("no device can be made here")
    card = driver.cards()[0]
    made = driver.create(card.uuid, "1g.10gb", 0)
    path = nodes_of(node, card, made)[1]
    # Nobody is behind the device, so a descriptor of the path alone stands for an open one.
    pid, _ = as_user(HOSTILE, lambda: str(os.open(path, os.O_PATH)), stays=True)
    try:
        with pytest.raises(DeviceAccessError, match=str(pid)):
            devices.give(card, made, uid=OWNER, job_id=7)
        assert opened(OWNER, path) == ["EACCES"]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_link_in_the_place_of_a_node_is_refused(
    node: SimulatedGpus, driver: NvmlSliceDriver, devices: NvidiaDevices, tmp_path: Path
) -> None:
    """Nothing else is given away when a node is not what it should be."""
    card = driver.cards()[0]
    made = driver.create(card.uuid, "1g.10gb", 0)
    path, precious = nodes_of(node, card, made)[0], tmp_path / "precious"
    precious.touch(mode=0o600)
    path.unlink()
    path.symlink_to(precious)
    with pytest.raises(DeviceAccessError):
        devices.give(card, made, uid=OWNER, job_id=7)
    assert precious.stat().st_uid == os.geteuid()


def test_giving_costs_little(node: SimulatedGpus, driver: NvmlSliceDriver, devices: NvidiaDevices) -> None:
    """It is in a job's prolog."""
    card = driver.cards()[0]
    took: list[float] = []
    for start in range(7):
        made = driver.create(card.uuid, "1g.10gb", start)
        began = time.perf_counter()
        devices.give(card, made, uid=OWNER, job_id=7)
        took.append(time.perf_counter() - began)
    assert sorted(took)[3] < 0.1
