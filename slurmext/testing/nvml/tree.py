"""The simulated node's /proc/driver and /dev: the capabilities tree, and device nodes with nobody behind them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from slurmext.testing.nvml.layout import MAX_COMPUTE, MAX_INSTANCES

DRIVER_ROOT = "SLURMEXT_DRIVER_ROOT"
"""The environment variable that says under which directory a process finds the driver's /proc and /dev."""

_LOCAL_MAJORS = range(254, 233, -1)
"""Numbers that Linux keeps for experiments; drivers take them from the top as well, so we look which are free."""
_CTL_MINOR = 255


def make_tree(root: Path, minors: Sequence[int]) -> int:
    """What the driver has before there are instances, for GPUs with these minor numbers.

    Returns the major number of the capabilities' nodes; 0: no device may be made here and plain files stand for them.
    """
    caps, dev = root / "proc/driver/nvidia/capabilities", root / "dev"
    (caps / "mig").mkdir(parents=True)
    (root / "proc/driver/nvidia-caps").mkdir()
    (dev / "nvidia-caps").mkdir(parents=True)
    for path in (root, root / "proc", root / "proc/driver", caps.parent, caps, dev, dev / "nvidia-caps"):
        path.chmod(0o755)
    for minor in minors:
        (caps / f"gpu{minor}/mig").mkdir(parents=True)
    for name, minor in (("config", 1), ("monitor", 2)):
        _write(caps / "mig" / name, f"DeviceFileMinor: {minor}\nDeviceFileMode: 256\nDeviceFileModify: 1\n")
    _write(root / "proc/driver/nvidia-caps/mig-minors", _mig_minors())
    caps_major, gpu_major = _free_majors(dev)
    for name, minor in (("nvidia-cap1", 1), ("nvidia-cap2", 2)):
        _node(dev / "nvidia-caps" / name, caps_major, minor, 0o400)
    for minor in minors:
        _node(dev / f"nvidia{minor}", gpu_major, minor, 0o666)
    _node(dev / "nvidiactl", gpu_major, _CTL_MINOR, 0o666)
    for name, minor in (("nvidia-uvm", _CTL_MINOR + 1), ("nvidia-uvm-tools", _CTL_MINOR + 2)):
        _node(dev / name, gpu_major, minor, 0o666)
    return caps_major


def minor_of(gpu: int, instance: int, compute: int | None = None) -> int:
    """The minor number of an instance's capability; with `compute` of the compute instance's. `gpu` is a minor too."""
    return 3 + 135 * gpu + 9 * instance + (0 if compute is None else 1 + compute)


def _mig_minors() -> str:
    lines = ["config 1", "monitor 2"]
    for gpu in range(32):
        for gi in range(MAX_INSTANCES):
            lines.append(f"gpu{gpu}/gi{gi}/access {minor_of(gpu, gi)}")
            lines += [f"gpu{gpu}/gi{gi}/ci{ci}/access {minor_of(gpu, gi, ci)}" for ci in range(MAX_COMPUTE)]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="ascii")
    path.chmod(0o444)


def _free_majors(dev: Path) -> tuple[int, int]:
    lines = Path("/proc/devices").read_text(encoding="ascii").partition("Block devices:")[0].splitlines()
    taken = {int(line.split()[0]) for line in lines if line[:3].strip().isdigit()}
    free = [major for major in _LOCAL_MAJORS if major not in taken]
    probe = dev / ".probe"
    try:
        os.mknod(probe, stat.S_IFCHR | 0o600, os.makedev(free[1], 1))
    except (OSError, IndexError):
        return 0, 0
    finally:
        with suppress(OSError):
            probe.unlink()
    return free[0], free[1]


def _node(path: Path, major: int, minor: int, mode: int) -> None:
    os.mknod(path, (stat.S_IFCHR if major else stat.S_IFREG) | mode, os.makedev(major, minor))
    path.chmod(mode)
