"""A simulated node's GPUs, seen from the test: what they are, what they do and what goes wrong with them."""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import mmap
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from slurmext.testing.nvml.build import build
from slurmext.testing.nvml.cards import Card, card_of
from slurmext.testing.nvml.layout import (
    MAGIC,
    MAX_CHANGES,
    MAX_COMPUTE,
    MAX_GPUS,
    MAX_INSTANCES,
    MAX_RECORDS,
    MAX_RULES,
    VERSION,
    WORKS_WHILE_HELD,
    State,
)
from slurmext.testing.nvml.tree import DRIVER_ROOT, make_tree

ENVIRONMENT = "SLURMEXT_SIMULATED_GPUS"
DRIVER = "550.90.07"
_MIB = 1 << 20
_NAMES = uuid.UUID("8c2f7b1e-6f0f-4a52-9d2b-3f6a0d1c5e70")
_HOPPER = 90

GPU_IS_LOST = 15
DRIVER_NOT_LOADED = 9
IN_USE = 19
INSUFFICIENT_RESOURCES = 23
NO_PERMISSION = 4
FUNCTION_NOT_FOUND = 13
ARGUMENT_VERSION_MISMATCH = 25
"""Faults as NVML numbers them (nvmlReturn_t)."""

DIES_BEFORE, DIES_AFTER = 1, 2
"""What a call does to the process that makes it: SIGKILL before anything was done, or once all of it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSlice:
    """An instance as the driver has it. `computes` has id and UUID of its compute instances; none is a partial one."""

    gpu: int
    gi: int
    profile: str
    start: int
    units: int
    computes: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that a process made."""

    name: str
    pid: int
    result: int


class SimulatedGpus:
    """The GPUs of one node, shared with every process that loads the simulated driver. Utilisation is in percent.

    A GPU works (100 %) while a process of a job of that node has it, until `set_utilisation` says otherwise.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), ctypes.sizeof(State))
        self._state: Any = State.from_buffer(self._map)

    @classmethod
    def create(
        cls, path: Path, gpu_types: Sequence[str], *, cluster: str = "dev", node: str = "n1", root: Path | None = None
    ) -> Self:
        """Make the file: one GPU for each type, `("h100",) * 8`, with minor numbers from 0.

        With `root`, a directory that is made, the driver has a capabilities tree and device nodes there.
        """
        if len(gpu_types) > MAX_GPUS:
            raise ValueError(f"{len(gpu_types)} GPUs: a simulated node has at most {MAX_GPUS}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(ctypes.sizeof(State))
        path.chmod(0o644)
        gpus = cls(path)
        state = gpus._state
        state.version, state.size, state.gpus = VERSION, ctypes.sizeof(State), len(gpu_types)
        state.driver, state.cluster, state.node = DRIVER.encode(), cluster.encode(), node.encode()
        for index, gpu_type in enumerate(gpu_types):
            gpu = state.gpu[index]
            gpu.uuid = f"GPU-{uuid.uuid5(_NAMES, f'{cluster}/{node}/{index}')}".encode()
            gpu.bus_id = f"00000000:{0x10 + index:02X}:00.0".encode()
            gpu.minor = index
            _fill(gpu, card_of(gpu_type))
        if root is not None:
            state.root = os.fsencode(root)
            state.caps_major = make_tree(root, range(len(gpu_types)))
        state.magic = MAGIC
        return gpus

    def __len__(self) -> int:
        return self._state.gpus

    @property
    def root(self) -> Path | None:
        """Where the driver's /proc and /dev are."""
        return Path(os.fsdecode(self._state.root)) if self._state.root else None

    def uuid(self, index: int) -> str:
        """A GPU's UUID."""
        return self._gpu(index).uuid.decode()

    def environment(self, folder: Path) -> dict[str, str]:
        """What a process needs to find these GPUs; the driver is compiled into `folder` when it is not there."""
        found = {ENVIRONMENT: str(self.path), "LD_LIBRARY_PATH": str(build(folder).parent)}
        return found | ({DRIVER_ROOT: str(self.root)} if self.root else {})

    # --- what they do ---

    def set_utilisation(self, percent: int | None, *indices: int, gi: int | None = None) -> None:
        """Let these GPUs (none named: all) work at `percent`; None: as its processes do. With `gi` that instance."""
        with self._locked():
            for index in indices or range(len(self)):
                gpu = self._gpu(index)
                meter = gpu.work if gi is None else gpu.instance[gi].work
                change = meter.history[meter.changes % MAX_CHANGES]
                change.at_us = int(time.time() * 1e6)
                change.percent = WORKS_WHILE_HELD if percent is None else percent
                meter.changes += 1

    def set_memory(self, used_mib: int | None, *indices: int, gi: int | None = None) -> None:
        """Let these GPUs (none named: all) have so much memory in use; None: what its processes have. With `gi` that
        instance.
        """
        for index in indices or range(len(self)):
            gpu = self._gpu(index)
            (gpu if gi is None else gpu.instance[gi]).used_bytes = -1 if used_mib is None else used_mib * _MIB

    def hold(
        self, index: int, pid: int, *, gi: int | None = None, ci: int = 0, memory_mib: int | None = None,
        percent: int = 100,
    ) -> None:  # fmt: skip
        """Let a process have the bare GPU or, with `gi`, a slice open until it ends or `let_go`. None: half of it."""
        with self._locked():
            place = (index, -1, -1) if gi is None else (index, gi, ci)
            slots = self._state.holder
            own = (slot for slot in slots if (slot.pid, slot.gpu, slot.instance, slot.compute) == (pid, *place))
            free = (slot for slot in slots if not slot.pid or not _lives(slot.pid))
            holder = next(itertools.chain(own, free))
            holder.gpu, holder.instance, holder.compute = place
            holder.used_bytes = -1 if memory_mib is None else memory_mib * _MIB
            holder.percent, holder.pid = percent, pid

    def let_go(self, pid: int) -> None:
        """Let a process have nothing open any more."""
        with self._locked():
            for holder in self._state.holder:
                if holder.pid == pid:
                    holder.pid = 0

    # --- slices ---

    def slices(self) -> list[SimulatedSlice]:
        """Every GPU instance there is, by GPU and start."""
        with self._locked():
            found = [
                SimulatedSlice(
                    gpu=index, gi=gi, profile=gpu.profile[instance.profile].name.decode(), start=instance.start,
                    units=gpu.profile[instance.profile].units,
                    computes=tuple((ci, instance.compute[ci].uuid.decode()) for ci in range(MAX_COMPUTE)
                                   if instance.compute[ci].used),
                )
                for index, gpu in enumerate(self._state.gpu[: len(self)])
                for gi, instance in enumerate(gpu.instance) if instance.used
            ]  # fmt: skip
        return sorted(found, key=lambda one: (one.gpu, one.start))

    def set_mig(self, enabled: bool, *indices: int) -> None:  # noqa: FBT001  reads as a sentence at the call
        """Put these GPUs (none named: all) into MIG mode or out of it, instances gone, as a site's boot script does."""
        with self._locked():
            for index in indices or range(len(self)):
                gpu = self._gpu(index)
                gpu.mig_current = gpu.mig_pending = int(enabled and gpu.mig_capable)
                _drop_instances(gpu)

    def reset(self, *indices: int) -> None:
        """Reset these GPUs (none named: all): instances are gone, a pending mode comes into force; from Hopper on the
        mode is forgotten.
        """
        with self._locked():
            for index in indices or range(len(self)):
                gpu = self._gpu(index)
                _drop_instances(gpu)
                gpu.mig_current = gpu.mig_pending = gpu.mig_pending if gpu.mig_needs_reset else 0

    # --- what goes wrong ---

    def set_fault(self, code: int, *indices: int) -> None:
        """Make every call about these GPUs fail so (nvmlReturn_t); none named: the whole driver. 0 mends it."""
        if not indices:
            self._state.fault = code
        for index in indices:
            self._gpu(index).fault = code

    def set_delay(self, milliseconds: int) -> None:
        """Make every call take so long."""
        self._state.delay_ms = milliseconds

    def on_call(
        self, call: str = "*", *, result: int = 0, delay_ms: int = 0, death: int = 0, skip: int = 0, times: int = 0,
        pid: int = 0, victim: int = 0,
    ) -> None:  # fmt: skip
        """Let calls whose name fits (`nvmlDeviceCreate*`) fail with `result`, take longer or kill who makes them, or
        another process (`victim`), and then go on.

        The first `skip` of them pass, after `times` (0: for ever) it is over; with `pid` only that process's count.
        """
        with self._locked():
            used = sum(bool(rule.armed) for rule in self._state.rule)
            if used == MAX_RULES:
                raise ValueError(f"{MAX_RULES} rules are the most: clear_calls() first")
            rule = self._state.rule[used]
            rule.call, rule.result, rule.delay_ms, rule.death = call.encode(), result, delay_ms, death
            rule.skip, rule.times, rule.pid, rule.victim, rule.seen, rule.armed = skip, times, pid, victim, 0, 1

    def disarm(self) -> None:
        """Forget every rule about calls."""
        with self._locked():
            for rule in self._state.rule:
                rule.armed = 0

    def clear_calls(self) -> None:
        """Forget every rule about calls, and the calls made."""
        self.disarm()
        with self._locked():
            self._state.recorded = 0

    def calls(self) -> list[Call]:
        """The calls that root's processes made since they were cleared, oldest first; the last MAX_RECORDS."""
        with self._locked():
            made = self._state.recorded
            found = (self._state.record[at % MAX_RECORDS] for at in range(max(0, made - MAX_RECORDS), made))
            return [Call(name=one.call.decode(), pid=one.pid, result=one.result) for one in found]

    def _gpu(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"GPU {index}: {self.path} has {len(self)}")
        return self._state.gpu[index]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def _fill(gpu: Any, card: Card) -> None:
    gpu.name, gpu.pci_device_id, gpu.sm, gpu.architecture = (
        card.name.encode(),
        card.pci_device_id,
        card.sm,
        card.architecture,
    )
    gpu.memory_bytes, gpu.used_bytes = card.memory_mib * _MIB, -1
    gpu.mig_capable, gpu.gpm = card.mig, card.architecture >= _HOPPER
    gpu.mig_needs_reset = card.architecture < _HOPPER
    gpu.memory_units, gpu.compute_slices, gpu.profiles = card.memory_units, card.compute_slices, len(card.profiles)
    for row, profile in zip(gpu.profile, card.profiles, strict=False):
        row.name, row.number, row.id, row.slices = profile.name.encode(), profile.number, profile.id, profile.slices
        row.most, row.sm, row.units, row.memory_mib = profile.most, profile.sm, profile.units, profile.memory_mib
        row.media, row.starts = profile.media, len(profile.starts)
        row.copy_engines, row.decoders, row.jpegs = profile.slices, profile.slices // 2, profile.slices // 7
        row.start[: row.starts] = profile.starts


def _drop_instances(gpu: Any) -> None:
    for gi in range(MAX_INSTANCES):
        gpu.instance[gi].used = 0


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
