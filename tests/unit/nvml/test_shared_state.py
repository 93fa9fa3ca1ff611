"""The simulated driver's state among processes: locks, deaths, and what other users may do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from slurmext.testing.nvml import DIES_AFTER, DIES_BEFORE, SimulatedGpus
from tests.waiting import until

CREATE, FILL = "nvmlDeviceCreateGpuInstanceWithPlacement", "nvmlGpuInstanceCreateComputeInstance"

_MAKER = """
import sys
from slurmext.adapters.nvml import NvmlSliceDriver
from slurmext.errors import GpuDriverError
driver = NvmlSliceDriver(patience_s=5)
gpu = driver.cards()[0].uuid
for start in map(int, sys.argv[1:]):
    try:
        made = driver.create(gpu, "1g.10gb", start)
    except GpuDriverError:
        print("refused")
    else:
        print(made.uuid, made.start)
        if len(sys.argv) == 2:
            driver.destroy(made)
"""

_HOLDER = """
import fcntl, os, sys, time
file = open(sys.argv[1], "rb")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def gpus(tmp_path: Path) -> SimulatedGpus:
    gpus = SimulatedGpus.create(tmp_path / "gpus", ("h100",), root=tmp_path / "root")
    gpus.set_mig(True)
    return gpus


def start(gpus: SimulatedGpus, library: Path, *starts: int) -> subprocess.Popen[str]:
    env = {**os.environ, **gpus.environment(library.parent)}
    argv = [sys.executable, "-c", _MAKER, *map(str, starts)]
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> list[str]:
    return process.communicate(timeout=60)[0].splitlines()


def test_processes_do_not_get_the_same_place(gpus: SimulatedGpus, library: Path) -> None:
    """Of several that want every place of a card, each place goes to one."""
    makers = [start(gpus, library, *range(7)) for _ in range(4)]
    lines = [line for maker in makers for line in said(maker)]
    made = Counter(line.split()[1] for line in lines if line != "refused")
    assert made == {str(place): 1 for place in range(7)}
    assert lines.count("refused") == 21
    assert sorted(uuid for one in gpus.slices() for _, uuid in one.computes) == sorted(
        line.split()[0] for line in lines if line != "refused"
    )


def test_a_killed_process_does_not_keep_the_lock(gpus: SimulatedGpus, library: Path) -> None:
    """It is the kernel's: whoever waits goes on when the holder is killed."""
    with subprocess.Popen([sys.executable, "-c", _HOLDER, str(gpus.path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        maker = start(gpus, library, 0)
        time.sleep(2)
        assert maker.poll() is None
        holder.kill()
        assert len(said(maker)) == 1


@pytest.mark.parametrize("death", [DIES_BEFORE, DIES_AFTER])
def test_a_process_dies_at_each_call(gpus: SimulatedGpus, library: Path, death: int) -> None:
    """What was done before the call is done, what comes after is not; a partial instance stays behind, as with NVML."""
    assert said(start(gpus, library, 0))
    names = [call.name for call in gpus.calls()]
    assert gpus.slices() == []
    interesting = [at for at, name in enumerate(names) if "Create" in name or "Destroy" in name or at % 40 == 0]
    gpu_instance, filled = names.index(CREATE), names.index(FILL)
    unfilled, gone = names.index("nvmlComputeInstanceDestroy"), names.index("nvmlGpuInstanceDestroy")
    for at in interesting:
        gpus.clear_calls()
        gpus.set_mig(True)
        gpus.on_call("*", death=death, skip=at, times=1)
        maker = start(gpus, library, 0)
        said(maker)
        assert maker.returncode == -signal.SIGKILL, names[at]
        done = at + (death == DIES_AFTER)
        slices = gpus.slices()
        assert len(slices) == (gpu_instance < done <= gone), names[at]
        if slices:
            assert len(slices[0].computes) == (filled < done <= unfilled), names[at]
        gpus.clear_calls()
    assert len(interesting) > 4


def test_the_tree_is_right_after_a_death(gpus: SimulatedGpus, library: Path) -> None:
    """Capabilities come and go with their instances."""
    assert gpus.root is not None
    tree = gpus.root / "proc/driver/nvidia/capabilities/gpu0/mig"
    gpus.on_call(FILL, death=DIES_BEFORE)
    said(start(gpus, library, 0))
    assert sorted(path.name for path in tree.rglob("*")) == ["access", "gi7"]
    gpus.clear_calls()
    said(start(gpus, library, 1, 2))
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("access")) == [
        "gi7/access", "gi8/access", "gi8/ci0/access", "gi9/access", "gi9/ci0/access",
    ]  # fmt: skip
    gpus.set_mig(True)
    said(start(gpus, library, 0))
    assert list(tree.iterdir()) == []


def test_rules_for_one_process(gpus: SimulatedGpus, library: Path) -> None:
    """Others pass."""
    gpus.on_call("*", death=DIES_BEFORE, pid=os.getpid())
    maker = start(gpus, library, 0)
    said(maker)
    assert maker.returncode == 0


def test_calls_take_the_time_they_are_given(gpus: SimulatedGpus, library: Path) -> None:
    """One that takes long does not hold up the others."""
    said(start(gpus, library, 0))
    before = [call.name for call in gpus.calls()].index(CREATE)
    gpus.clear_calls()
    gpus.on_call("nvmlDeviceCreate*", delay_ms=60_000, times=1)
    slow = start(gpus, library, 0)
    until(lambda: len(gpus.calls()) >= before)  # the next one is what takes long
    assert len(said(start(gpus, library, 1))) == 1
    assert slow.poll() is None
    slow.kill()
    said(slow)
    gpus.on_call("nvmlDeviceCreate*", delay_ms=300, times=1)
    began = time.monotonic()
    assert len(said(start(gpus, library, 2))) == 1
    assert time.monotonic() - began > 0.3
