"""Namespaces that live and die with a cluster: its own mounts, a host name for each node, and its links with --netns.

A namespace exists as long as a process is in it, so a sleeping holder keeps each one; `nsenter` puts daemons into it.
Nothing is mounted or named outside, so a crash leaves nothing behind but the bridge of --netns.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurmext.devcluster import packages, processes
from slurmext.devcluster.errors import DevclusterError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurmext.devcluster.spec import Layout

CLUSTER: Final = "holder"

# $1: the marker directory; $2: the hosts file; $3: the Debian root, or empty.
# Of another release's root only /usr is used, with the links and the linker cache that belong to it: everything else
# (users, homes, /tmp, the project, this cluster) is the host's, so paths, names and ids mean the same on both sides.
_MOUNTS: Final = """
set -eu
mount --bind "$1" "$1"
mount --bind "$2" /etc/hosts
if [ -n "$3" ]; then
    for part in /etc/alternatives /etc/ld.so.cache; do
        [ ! -e "$3$part" ] || mount --bind "$3$part" "$part"
    done
    mount --bind /usr/local "$3/usr/local"
    mount --bind "$3/usr" /usr
    mount --bind "$3/usr/local" /usr/local
fi
"""
_READY: Final = """
echo ready
exec sleep infinity >/dev/null 2>&1
"""
_NODE: Final = """
set -eu
echo "$1" > /proc/sys/kernel/hostname
[ -z "$2" ] || ip link set lo up
"""


def supported() -> bool:
    """Whether this process may make mount and host name namespaces (root in a plain container may not)."""
    unshare = packages.program("unshare")
    # Without a hosts file there is nothing to put the nodes' names over.
    if unshare is None or os.geteuid() != 0 or not Path("/etc/hosts").exists():
        return False
    probe = [unshare, "--mount", "--uts", "sh", "-c", "mount --bind /tmp /tmp && echo x > /proc/sys/kernel/hostname"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def node_holder(node: str) -> str:
    """The component name of a node's holder."""
    return f"holder@{node}"


def open_cluster(layout: Layout, root: Path | None) -> None:
    """Start the holder of the cluster's mount namespace. Raises DevclusterError."""
    unshare = packages.required_program("unshare")
    layout.marker.mkdir(exist_ok=True)
    script = _MOUNTS + _READY
    _hold(
        CLUSTER,
        [
            unshare,
            "--mount",
            "--propagation",
            "slave",
            "--",
            "sh",
            "-c",
            script,
            "sh",
            str(layout.marker),
            str(layout.etc / "hosts"),
            str(root or ""),
        ],
        layout,
    )


def open_node(layout: Layout, node: str, *, network: bool) -> None:
    """Start the holder of a node's host name and, if asked for, of its network. Raises DevclusterError."""
    unshare = packages.required_program("unshare")
    kinds = ["--uts", *(["--net"] if network else [])]
    command = [unshare, *kinds, "--", "sh", "-c", _NODE + _READY, "sh", node, "net" if network else ""]
    _hold(node_holder(node), [*entry(layout, CLUSTER, "mnt"), *command], layout)


def entry(layout: Layout, holder: str, *kinds: str) -> list[str]:
    """The command prefix that runs a program in these namespaces (mnt, uts, net) of a holder."""
    pid = processes.pid_of(holder, layout)
    if pid is None:
        raise DevclusterError(f"{holder} of {layout.root} is gone: take the cluster down and up again")
    flags = [f"--{'mount' if kind == 'mnt' else kind}=/proc/{pid}/ns/{kind}" for kind in kinds]
    if "mnt" in kinds:  # entering mounts leaves a chroot that we may be in
        flags.append(f"--root=/proc/{pid}/root")
    return [packages.required_program("nsenter"), *flags, "--"]


def _hold(name: str, command: Sequence[str], layout: Layout) -> None:
    log = layout.log / f"{name}.out"
    processes.spawn(name, command, layout, env=daemon_environment(layout))

    def settled() -> bool:
        return "ready" in log.read_text() or processes.pid_of(name, layout) is None

    processes.await_true(settled, timeout_s=10, every_s=0.005)
    if processes.pid_of(name, layout) is None:
        raise DevclusterError(f"cannot make a namespace for {name}: {log.read_text().strip()}")


def daemon_environment(layout: Layout) -> dict[str, str]:
    """The environment of every daemon: nothing of the caller's but the time zone."""
    zone = {"TZ": os.environ["TZ"]} if "TZ" in os.environ else {}
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/",
        "SLURM_CONF": str(layout.slurm_conf),
        "SLURMEXT_CONF": str(layout.site_config),
        processes.MARKER: str(layout.root),
        **zone,
    }
