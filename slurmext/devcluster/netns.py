"""With --netns: a network namespace for each node, its link to one bridge limited in both directions."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Final

from slurmext.devcluster import namespaces, packages, ports, processes
from slurmext.devcluster.errors import DevclusterError
from slurmext.devcluster.spec import Layout

if TYPE_CHECKING:
    from slurmext.devcluster.record import Record

_UNITS: Final = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}


def bridge(record: Record) -> str:
    """The bridge's name: `sxK` for the subnet 198.18.K.0/24."""
    return f"sx{(record.subnet or '').rpartition('.')[2]}"


def drop_bridge(name: str) -> bool:
    """Remove a bridge if it is one of ours, by its address: whether it was."""
    ours = f" {controller_address(ports.subnet(int(name.removeprefix('sx'))))}/24 "
    shown = _run("ip", "-oneline", "-4", "addr", "show", "dev", name)
    return ours in shown.stdout and _run("ip", "link", "del", name).returncode == 0


def controller_address(subnet: str) -> str:
    """The address of the host, where slurmctld and slurmextd are."""
    return f"{subnet}.254"


def node_address(subnet: str, index: int) -> str:
    """The address of the node with this index, counted from 0."""
    return f"{subnet}.{index + 1}"


def bridge_exists(record: Record) -> bool:
    """Whether the bridge is there."""
    return _run("ip", "link", "show", "dev", bridge(record)).returncode == 0


def open_links(record: Record) -> None:
    """Make the bridge and a link into every node's namespace. Raises DevclusterError."""
    assert record.subnet is not None  # noqa: S101 - only called with --netns
    layout = Layout(record.spec.directory)
    name = bridge(record)
    _checked("ip", "link", "add", name, "type", "bridge")
    _checked("ip", "addr", "add", f"{controller_address(record.subnet)}/24", "dev", name)
    _checked("ip", "link", "set", name, "up")
    limit = _limit(record.spec.rate)
    for index, node in enumerate(record.spec.node_names):
        outer = f"{name}n{index + 1}"
        pid = processes.pid_of(namespaces.node_holder(node), layout)
        inside = namespaces.entry(layout, namespaces.node_holder(node), "net")
        peer = ("peer", "name", "eth0", "netns", str(pid))
        _checked("ip", "link", "add", outer, "master", name, "up", "type", "veth", *peer)
        _checked(*inside, "ip", "addr", "add", f"{node_address(record.subnet, index)}/24", "dev", "eth0")
        _checked(*inside, "ip", "link", "set", "eth0", "up")
        _checked("tc", "qdisc", "add", "dev", outer, "root", *limit)
        _checked(*inside, "tc", "qdisc", "add", "dev", "eth0", "root", *limit)


def close_links(record: Record) -> None:
    """Remove the bridge and the links; the kernel may keep a namespace, and its link, after its last process."""
    if record.subnet and bridge_exists(record):
        _checked("ip", "link", "del", bridge(record))
        for index in range(record.spec.nodes):
            _run("ip", "link", "del", f"{bridge(record)}n{index + 1}")  # mostly gone already


def _limit(rate: str) -> list[str]:
    # Ten milliseconds' worth: less than a timer tick's worth would keep the link below its rate.
    burst_bytes = max(65536, bits_per_s(rate) // 800)
    return ["tbf", "rate", rate, "burst", str(burst_bytes), "latency", "50ms"]


def bits_per_s(rate: str) -> int:
    """`100mbit` -> 100000000."""
    number, unit = re.fullmatch(r"([0-9]+)([a-z]+)", rate).groups()  # type: ignore[union-attr]  # ClusterSpec checked it
    return int(number) * _UNITS[unit]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    first = packages.required_program(command[0]) if not command[0].startswith("/") else command[0]
    return subprocess.run([first, *command[1:]], check=False, capture_output=True, text=True)


def _checked(*command: str) -> None:
    done = _run(*command)
    if done.returncode != 0:
        raise DevclusterError(f"{' '.join(command)}: {done.stderr.strip()}")
