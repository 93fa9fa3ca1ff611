"""The slices of a simulated node: the unmodified pynvml, the simulated driver and its tree, no agent around them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from slurmext.adapters.devices import NvidiaDevices
from slurmext.adapters.nvml import NvmlSliceDriver
from slurmext.adapters.tcp.orders import ReserveSlices, SetGpuUse, SliceItem
from slurmext.agent.mps.control import MpsControl
from slurmext.agent.mps.shares import Shares
from slurmext.agent.slices.journal import Book
from slurmext.agent.slices.keeper import Parts, SliceKeeper
from slurmext.agent.slices.leftovers import Leftovers
from slurmext.agent.slices.maker import Maker, WarmPool
from slurmext.agent.slices.reconcile import Reconciler
from slurmext.agent.slices.taskfile import TaskFiles
from slurmext.agent.slices.uses import Uses
from slurmext.model.slicing import GpuUse
from slurmext.testing.nvml import ENVIRONMENT, SimulatedGpus, SimulatedSlice
from slurmext.testing.nvml.tree import minor_of


class Events:
    """A spool that only remembers."""

    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def add(self, event: str, **detail: Any) -> None:
        self.said.append((event, detail))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [detail for name, detail in self.said if name == event]


class Node:
    """One node's slices; `agent()` begins anew over the same journal, as a restarted agent does."""

    def __init__(self, folder: Path, *types: str, warm_s: float = 0, mps: str = "/nonexistent") -> None:
        self.folder, self.warm_s, self.mps = folder, warm_s, mps
        path = folder / "gpus"
        self.gpus = (
            SimulatedGpus(path)
            if path.exists()
            else SimulatedGpus.create(path, types or ("h100",), root=folder / "driver")
        )
        os.environ[ENVIRONMENT] = str(self.gpus.path)
        self.alive: set[int] = set()
        self.in_slurm: set[int] | None = None
        self.names: dict[int, str] = {}
        self.now_s = 1e9
        self.boot = "boot-1"
        self.events = Events()
        self.agent()

    def agent(self) -> SliceKeeper:
        """A fresh agent's keeper; what the one before had in memory is lost."""
        now = lambda: self.now_s  # noqa: E731
        self.book = Book(self.folder / "slices.jsonl")
        self.driver = NvmlSliceDriver(patience_s=0.05)
        access = NvidiaDevices(self.folder / "driver")
        pool = WarmPool(keep_s=self.warm_s, most=4)
        self.maker = Maker(self.book, self.driver, access, pool=pool, now=now)
        self.shares = Shares(self.book, self.maker, MpsControl(Path(self.mps)), access, base=self.folder / "mps")
        self.files = TaskFiles(self.folder / "n1.slices")
        parts = Parts(
            book=self.book,
            maker=self.maker,
            shares=self.shares,
            driver=self.driver,
            files=self.files,
            events=self.events,
        )  # type: ignore[arg-type]
        self.keeper = SliceKeeper(parts, now=now, name_of=self.names.get)
        self.uses = Uses(self.book, self.maker, self.driver, self.events)  # type: ignore[arg-type]
        self.reconciler = Reconciler(
            parts,
            self.keeper,
            with_processes=lambda: self.alive,
            in_slurm=lambda: self.in_slurm,
            now=now,
            boot=self.boot,
        )
        self.leftovers = Leftovers(self.book, self.driver, now=now, job_of=lambda pid: None)
        return self.keeper

    def restart(self) -> SliceKeeper:
        """Another agent on the same node."""
        self.keeper.stop()
        self.agent()
        self.uses.restore()
        self.reconciler.begin()
        self.settle()
        return self.keeper

    def settle(self) -> None:
        """Wait for slices that are being freed."""
        for each in [self.keeper._pool.submit(lambda: None) for _ in range(8)]:
            each.result()
        self.keeper._pool.shutdown(wait=True)
        self.keeper._pool = ThreadPoolExecutor(4)

    def mig(self, *indices: int) -> None:
        """Make GPUs ready to be cut."""
        for index in indices or range(len(self.gpus)):
            self.uses.set(SetGpuUse(gpu=self.gpus.uuid(index), use=GpuUse.MIG))

    def item(self, profile: str, start: int, gpu: int = 0) -> SliceItem:
        return SliceItem(gpu=self.gpus.uuid(gpu), profile=profile, start=start)

    def reserve(self, job_id: int, *items: SliceItem, uid: int = 1000, name: str = "", **more: Any) -> str:
        """Reserve; what the agent answered."""
        before = len(self.events.said)
        self.keeper.reserve(
            ReserveSlices(
                reservation=name or f"r{job_id}",
                job_id=job_id,
                uid=uid,
                items=items,
                job=more.pop("job", str(job_id)),
                **more,
            )
        )
        return ",".join(event for event, _ in self.events.said[before:])

    def start(self, job_id: int, *items: SliceItem, uid: int = 1000, **more: Any) -> str | None:
        """Reserve and run the prolog."""
        self.reserve(job_id, *items, uid=uid, **more)
        return self.keeper.prolog(job_id, uid)

    def end(self, job_id: int) -> None:
        """Run the epilog, and wait."""
        self.keeper.epilog(job_id)
        self.settle()

    def places(self) -> list[tuple[int, str, int]]:
        """What the driver has: GPU, profile, start."""
        return [(one.gpu, one.profile, one.start) for one in self.gpus.slices()]

    def uuids(self) -> dict[tuple[str, int], str]:
        return {(one.profile, one.start): one.computes[0][1] for one in self.gpus.slices() if one.computes}

    def taskfile(self, job_id: int) -> str:
        path = self.folder / "n1.slices" / str(job_id)
        return path.read_text() if path.exists() else ""

    def cap_nodes(self, one: SimulatedSlice) -> list[Path]:
        folder = self.folder / "driver/dev/nvidia-caps"
        return [folder / f"nvidia-cap{minor_of(one.gpu, one.gi, *rest)}" for rest in ((), (one.computes[0][0],))]
