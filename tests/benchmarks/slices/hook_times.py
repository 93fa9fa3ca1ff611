"""What slices add to Slurm's hooks: the wrappers as slurmd runs them, a real agent, the simulated driver without delay.

Cold: the instance is made (or the MPS daemon started). Warm: one that a job just gave back is taken over. In turns.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slurmext
from slurmext.adapters.munge import MungeAuth
from slurmext.adapters.tcp.orders import ReserveSlices, SetGpuUse, SliceItem
from slurmext.agent.main import Agent
from slurmext.config.site import SiteConfig
from slurmext.install.hooks import SOURCES, interpreter, wrapper_text
from slurmext.model.slicing import GpuUse
from slurmext.testing import mps, nvml

if TYPE_CHECKING:
    from collections.abc import Callable

NODE = "bench1"
PACKAGE = Path(slurmext.__file__).parent
USER = 65534
"""The hooks of root and the agent are root's; the job is of another user, as jobs are."""


def hook_times(*, quick: bool = False) -> dict[str, float]:
    """Milliseconds at the median and at the 95th percentile: `slice_cold_ms_p95` and so on.

    Told is the sum of a job's prolog, first TaskProlog and epilog without that of empty hooks; besides that the prolog
    alone, of which jobs of slices have the most.
    """
    times = 30 if quick else 150
    with tempfile.TemporaryDirectory(prefix="sxb", dir="/tmp") as name:
        Path(name).chmod(0o755)
        bench = _Bench(Path(name))
        try:
            taken = bench.measure(times)
        finally:
            bench.stop()
    result: dict[str, float] = {}
    print(f"\nhooks of a job with one slice, {times} jobs each (ms added)      p50     p95")
    for kind, rows in taken.items():
        for what, values in (("", [sum(row) for row in rows]), ("_prolog", [row[0] for row in rows])):
            p50, p95 = statistics.median(values), sorted(values)[int(len(values) * 0.95)]
            print(f"  {kind + what:<50}{p50:8.1f}{p95:8.1f}")
            result[f"{kind}{what}_ms_p50"], result[f"{kind}{what}_ms_p95"] = round(p50, 2), round(p95, 2)
    return result


class _Bench:
    """An agent with two H100s, one to be cut and one to be shared, and the installed wrappers."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._job = folder, 1000
        self._gpus = nvml.SimulatedGpus.create(folder / "gpus", ("h100", "h100"), node=NODE, root=folder / "driver")
        os.environ |= {name: value for name, value in self._gpus.environment(folder / "lib").items()
                       if name != "LD_LIBRARY_PATH"}  # fmt: skip
        ctypes.CDLL(str(folder / "lib" / "libnvidia-ml.so.1"))  # under the name that pynvml asks for
        control = mps.build(folder / "mps")
        site = SiteConfig.model_validate({
            "version": 1, "cluster": "bench", "run_dir": str(folder / "run"), "slurm": {"user": "root"},
            "agent": {"spool_dir": str(folder / "spool"), "slices": {"mps_control": str(control)}},
            "daemon": {"address": "127.0.0.1:9"},
        })  # fmt: skip
        self._agent = Agent(site, NODE, munge=MungeAuth(munge=Path("/bin/false"), unmunge=Path("/bin/false")))
        self._agent.start()
        self._order(SetGpuUse(gpu=self._gpus.uuid(0), use=GpuUse.MIG))
        self._order(SetGpuUse(gpu=self._gpus.uuid(1), use=GpuUse.SHARED))
        self._hooks = {key: self._hook(key, path) for key, path in SOURCES.items()}
        self._empty = folder / "empty"
        self._empty.write_text("#!/bin/sh\nexit 0\n")
        self._empty.chmod(0o755)

    def measure(self, times: int) -> dict[str, list[list[float]]]:
        """Milliseconds that prolog, TaskProlog and epilog take longer than empty hooks, for each kind of slice."""
        # A warm one stays for as long as nobody needs its place: the next at the same place takes it over.
        warm = SliceItem(gpu=self._gpus.uuid(0), profile="1g.10gb", start=6)
        share = SliceItem(gpu=self._gpus.uuid(1), share_pct=25, memory_mib=10240)
        self._one(lambda: warm)
        taken: dict[str, list[list[float]]] = {"slice_cold": [], "slice_warm": [], "share": []}
        for _ in range(times):
            taken["slice_cold"].append(self._one(self._cold))
            taken["slice_warm"].append(self._one(lambda: warm))
            taken["share"].append(self._one(lambda: share))
        return taken

    def stop(self) -> None:
        """End the agent and every share's daemon."""
        for share in self._agent.slices._book.shares():
            self._agent.slices._shares.remove(share)
        self._agent.stop()

    def _cold(self) -> SliceItem:
        self._agent.slices._maker.drop_warm(self._gpus.uuid(0), "3g.40gb", 0)
        return SliceItem(gpu=self._gpus.uuid(0), profile="3g.40gb", start=0)

    def _one(self, item: Callable[[], SliceItem]) -> list[float]:
        self._job += 1
        order = ReserveSlices(reservation=f"r{self._job}", job_id=self._job, uid=USER, items=(item(),))
        self._order(order)
        empty = statistics.median(self._timed(self._empty, root=True) for _ in range(3))
        rows = [self._timed(self._hooks["Prolog"], root=True), self._timed(self._hooks["TaskProlog"], root=False),
                self._timed(self._hooks["Epilog"], root=True)]  # fmt: skip
        until_s = time.monotonic() + 20
        while self._agent.slices._book.reservation(order.reservation) is not None:
            if time.monotonic() > until_s:
                raise SystemExit(f"the slices of job {self._job} are not freed")
            time.sleep(0.01)
        return [row - empty for row in rows]

    def _order(self, order: Any) -> None:
        self._agent.slices._obey(order)

    def _timed(self, program: Path, *, root: bool) -> float:
        environment = {
            "SLURM_JOB_ID": str(self._job), "SLURM_JOB_UID": str(USER), "SLURMD_NODENAME": NODE, "SLURM_LOCALID": "0",
            "SLURM_JOB_RESTART_COUNT": "0", "SPANK_SLURMEXT_GPU_SLICE": "1g.10gb", "SLURMEXT_GPU_SLICE": "1g.10gb",
        }  # fmt: skip
        started = time.perf_counter()
        done = subprocess.run([program], env=environment, check=True, stdout=subprocess.PIPE, text=True,
                              user=None if root else USER)  # fmt: skip
        took = (time.perf_counter() - started) * 1000
        if not root and "export CUDA_VISIBLE_DEVICES=" not in done.stdout:
            raise SystemExit(f"the task of job {self._job} got no slice: {done.stdout!r}")
        return took

    def _hook(self, key: str, source: Path) -> Path:
        path = self._folder / source.name
        copy = self._folder / "package" / "hooks"
        copy.mkdir(parents=True, exist_ok=True)
        for file in (PACKAGE / "hooks").glob("*.py"):  # a checkout may be closed to the job's user
            (copy / file.name).write_bytes(file.read_bytes())
        values = {"PYTHON": str(interpreter()), "RUN_DIR": str(self._folder / "run"), "DEADLINE_S": "5", "PRELOAD_S": "5",
                  "PACKAGE_DIR": str(copy.parent)}  # fmt: skip
        path.write_text(wrapper_text(PACKAGE.parent / source, values))
        path.chmod(0o755)
        return path


if __name__ == "__main__":
    print(hook_times(quick="--quick" in sys.argv))
