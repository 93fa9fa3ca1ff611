"""A DeviceAccess for NVIDIA GPUs: ownership of the instances' nodes, and the device control of jobs' cgroups."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from slurmext.adapters.devices import bpf
from slurmext.adapters.devices.cgroups import Allowed, Hierarchies, admit, gpu_nodes
from slurmext.adapters.devices.gres import PLACES, devices_of_gres
from slurmext.adapters.devices.nodes import CapabilityNodes
from slurmext.errors import DeviceAccessError
from slurmext.model.mig import GpuCard, MigInstance

log = logging.getLogger(__name__)

DRIVER_ROOT = "SLURMEXT_DRIVER_ROOT"
"""The environment variable for another directory than / with the driver's /proc and /dev."""


class NvidiaDevices:
    """`root`: where the driver's /proc and /dev are; without one as DRIVER_ROOT says, else `/`.

    The devices in gres.conf, beside `slurm_conf` or where Slurm looks for it, are kept from slice jobs where Slurm
    keeps them.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        hierarchies: Hierarchies | None = None,
        slurm_conf: Path | None = None,
    ) -> None:
        self._root = root or Path(os.environ.get(DRIVER_ROOT, "/"))
        self._nodes = CapabilityNodes(self._root)
        self._hierarchies = hierarchies or _usable(Hierarchies.of_this_node())
        self._gres_conf = PLACES if slurm_conf is None else (slurm_conf.with_name("gres.conf"),)

    def give(self, card: GpuCard, instance: MigInstance | None, *, uid: int, job_id: int) -> None:
        """Only this user (and root) may open the instance; without one: the GPU may be opened as ever."""
        if instance is not None:
            log.debug("job %s: instance %s on GPU %s for uid %s", job_id, instance.gi, card.minor, uid)
            self._nodes.give(card, instance, uid)

    def take_back(self, card: GpuCard, instance: MigInstance | None, *, job_id: int) -> None:
        """Nobody but root may open the instance any more. Nothing happens when it is gone."""
        if instance is not None:
            log.debug("job %s: instance %s on GPU %s for nobody", job_id, instance.gi, card.minor)
            self._nodes.take(card, instance)

    def admit(self, pid: int, devices: Sequence[tuple[GpuCard, MigInstance | None]], *, job_id: int) -> str:
        """Let the job of a process (a task's, before it starts) open these GPUs and instances and no others.

        Returns the kinds of cgroup it was done with; nothing where the process is in none of its job's. Raises
        DeviceAccessError.
        """
        try:
            gpu_major, gpus_there = gpu_nodes(self._root / "dev")
        except OSError as error:
            raise DeviceAccessError(f"{self._root / 'dev'}: {error.strerror}") from error
        caps = [minor for card, one in devices if one is not None for minor in self._nodes.minors(card, one)]
        allowed = Allowed(
            gpu_major=gpu_major,
            gpus=sorted({card.minor for card, _ in devices}),
            gpus_there=gpus_there,
            caps_major=self._nodes.major(),
            caps=caps,
            never=devices_of_gres(self._gres_conf),
        )
        return admit(self._hierarchies, pid, job_id, allowed)


def _usable(found: Hierarchies) -> Hierarchies:
    """Without what this kernel does not let us use."""
    unified = found.unified if found.unified is not None and bpf.works() else None
    return Hierarchies(unified=unified, devices=found.devices)
