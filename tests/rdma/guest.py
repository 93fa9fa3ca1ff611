"""Boots a kernel with soft-RoCE over the host's own files (read only, 9p) and runs one Python program in it."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

LIMIT_S = 480
MARK = "RESULT "
_MODULES = ("virtio_pci", "virtio_net", "9pnet_virtio", "9p", "crc32_generic", "rdma_rxe", "rdma_ucm", "ib_uverbs")
_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /modules/$module || echo "insmod $module failed"; done
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=512000,cache=loose host /root || echo "no root"
for place in proc sys dev; do /bin/busybox mount --rbind /$place /root/$place; done
for place in tmp run dev/shm; do
    [ -d /root/$place ] || /bin/busybox mkdir -p /root/$place
    /bin/busybox mount -t tmpfs -o mode=1777 tmpfs /root/$place
done
/bin/busybox chroot /root /bin/sh -c '
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
ip link set lo up
card=$(ls /sys/class/net | grep -v lo | head -1)
ip addr add 10.77.0.1/24 dev $card
ip link set $card up
sleep 1
rdma link add rxe0 type rxe netdev $card
rdma link show
ulimit -l unlimited
{environment} {command} 2>&1
'
echo o > /proc/sysrq-trigger
/bin/busybox sleep 60
"""


def run_in_guest(room: Path, work: Path, program: Path, environment: dict[str, str]) -> tuple[Any, str]:
    """What the program printed after `RESULT ` (JSON; None when it printed none), and everything it printed.

    `room` is what scripts/rdma-guest.sh prepared, `work` a directory for the guest's first file system.
    """
    kernel = next((room / "kernel" / "boot").glob("vmlinuz-*"))
    words = " ".join(f"{name}={value}" for name, value in environment.items())
    command = f"{sys.executable} -P {program}"
    initrd = _initrd(room / "kernel", work, words, command)
    machine = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048", "-nographic",
        "-no-reboot", "-kernel", str(kernel), "-initrd", str(initrd),
        "-append", "console=ttyS0 panic=-1 quiet rdinit=/init mitigations=off",
        "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
        "-nic", "user,model=virtio-net-pci,restrict=on",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            machine,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            stdin=subprocess.DEVNULL,
        )
        told = done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        told = output.decode(errors="replace") if isinstance(output, bytes) else output
    line = next((line for line in told.splitlines() if MARK in line), None)
    return (json.loads(line.partition(MARK)[2]) if line else None), told


def _initrd(kernel: Path, work: Path, environment: str, command: str) -> Path:
    tree = work / "initrd"
    (tree / "bin").mkdir(parents=True)
    (tree / "modules").mkdir()
    shutil.copy("/bin/busybox", tree / "bin/busybox")
    names = _with_dependencies(kernel)
    for path in names:
        shutil.copy(path, tree / "modules" / path.name)
    init = tree / "init"
    init.write_text(
        _INIT.format(modules=" ".join(path.name for path in names), environment=environment, command=command)
    )
    init.chmod(0o755)
    listing = "\n".join(str(path.relative_to(tree)) for path in tree.rglob("*"))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=listing.encode(), capture_output=True, check=True
    )
    image = work / "initrd.gz"
    image.write_bytes(gzip.compress(packed.stdout, 1))
    return image


def _with_dependencies(kernel: Path) -> list[Path]:
    """The modules' files, each after those it needs."""
    folder = next((kernel / "lib" / "modules").iterdir())
    subprocess.run(["/sbin/depmod", "-b", str(kernel), folder.name], check=True)
    needs: dict[str, list[str]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        name, _, rest = line.partition(":")
        needs[name] = rest.split()
    by_name = {Path(name).name.removesuffix(".ko").replace("-", "_"): name for name in needs}
    ordered: list[str] = []
    for module in _MODULES:
        name = by_name[module.replace("-", "_")]
        for one in [*reversed(needs[name]), name]:
            if one not in ordered:
                ordered.append(one)
    return [folder / name for name in ordered]
