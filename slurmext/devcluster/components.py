"""The parts of a cluster: how each is started, and how one knows that it answers."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurmext.devcluster import namespaces, netns, packages, processes
from slurmext.devcluster.spec import Layout
from slurmext.testing import nvml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slurmext.devcluster.record import Record

# Modules of this installation, never of the current directory: a cluster's has one named slurmext.
PYTHON: Final = (sys.executable, "-P", "-m")

_LISTEN: Final = "0A"  # a listening socket in /proc/net/tcp


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A daemon. `ready` tells whether it answers; `log` is the file to read when it does not."""

    name: str
    argv: Callable[[], list[str]]
    ready: Callable[[], bool]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None


def components(record: Record) -> dict[str, Component]:
    """Every component by name, in the order of starting."""
    layout = Layout(record.spec.directory)
    parts = [_munged(layout)]
    if record.spec.dbd:
        parts += [_mariadbd(record, layout), _slurmdbd(record, layout)]
    parts.append(_slurmctld(record, layout))
    parts += [_slurmd(record, layout, index) for index in range(record.spec.nodes)]
    if not record.spec.plain:
        parts.append(_slurmextd(layout))
        parts += [_agent(record, layout, node) for node in record.spec.node_names]
    return {part.name: part for part in parts}


def address(record: Record, index: int) -> str:
    """Where the slurmd of the node with this index listens."""
    return netns.node_address(record.subnet, index) if record.subnet else "127.0.0.1"


def controller_address(record: Record) -> str:
    """Where slurmctld, slurmdbd and slurmextd listen."""
    return netns.controller_address(record.subnet) if record.subnet else "127.0.0.1"


def _munged(layout: Layout) -> Component:
    # The host's for every release: its credentials are the same, and it need not share their libraries.
    def argv() -> list[str]:
        return [
            packages.required_program("munged"), "--foreground", "--num-threads=4",
            f"--key-file={layout.etc}/munge.key",
            f"--socket={layout.munge_socket}",
            f"--pid-file={layout.munge_socket.parent}/pid",
            f"--seed-file={layout.munge_socket.parent}/seed",
            f"--log-file={layout.munge_socket.parent}/log",
        ]  # fmt: skip

    def ready() -> bool:
        return _accepts(layout.munge_socket)

    return Component(name="munged", argv=argv, ready=ready, log=layout.log / "munged.out")


def _mariadbd(record: Record, layout: Layout) -> Component:
    def argv() -> list[str]:
        return [
            packages.required_program("mariadbd"), "--no-defaults",
            f"--datadir={layout.state}/mariadb",
            f"--socket={layout.run}/mariadb/socket",
            f"--pid-file={layout.run}/mariadb/pid",
            "--bind-address=127.0.0.1", "--skip-name-resolve",
            f"--port={record.ports['mariadbd']}",
            # What slurmdbd asks of a database, small; nothing here has to survive a power cut.
            "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M", "--innodb-lock-wait-timeout=900",
            "--innodb-flush-log-at-trx-commit=0", "--max-allowed-packet=16M", "--performance-schema=OFF",
        ]  # fmt: skip

    def ready() -> bool:
        return _accepts(layout.run / "mariadb/socket")

    return Component(name="mariadbd", argv=argv, ready=ready, log=layout.log / "mariadbd.out", user="slurm")


def _slurmdbd(record: Record, layout: Layout) -> Component:
    def argv() -> list[str]:
        return [*_in_cluster(record, layout), _daemon("slurmdbd"), "-D"]

    def ready() -> bool:
        return _listens("slurmdbd", layout, record.ports["slurmdbd"])

    return Component(name="slurmdbd", argv=argv, ready=ready, log=layout.log / "slurmdbd.log", user=None)


def _slurmctld(record: Record, layout: Layout) -> Component:
    def argv() -> list[str]:
        return [*_in_cluster(record, layout), _daemon("slurmctld"), "-D"]

    def ready() -> bool:
        return _listens("slurmctld", layout, record.ports["slurmctld"])

    return Component(name="slurmctld", argv=argv, ready=ready, log=layout.log / "slurmctld.log")


def _slurmd(record: Record, layout: Layout, index: int) -> Component:
    node = record.spec.node_names[index]
    name = f"slurmd@{node}"

    def argv() -> list[str]:
        return [*_in_node(record, layout, node), _daemon("slurmd"), "-D", "-N", node]

    def ready() -> bool:
        return _listens(name, layout, record.ports[name])

    return Component(name=name, argv=argv, ready=ready, log=layout.log / f"{name}.log")


def _slurmextd(layout: Layout) -> Component:
    def ready() -> bool:
        # Its own heartbeat, not one of the process before it.
        try:
            beat_s = (layout.slurmext_run / "heartbeat").stat().st_mtime
            return beat_s >= (layout.pids / "slurmextd").stat().st_mtime
        except OSError:
            return False

    def argv() -> list[str]:
        return [*PYTHON, "slurmext.daemon.main"]

    return Component(name="slurmextd", argv=argv, ready=ready, log=layout.log / "slurmextd.out", env=_python_env())


def _agent(record: Record, layout: Layout, node: str) -> Component:
    name = f"agent@{node}"

    def argv() -> list[str]:
        # Never in the cluster's mounts: this interpreter belongs to the host, and /usr there may be another release's.
        inside = namespaces.entry(layout, namespaces.node_holder(node), "net") if record.subnet else []
        return [*inside, *PYTHON, "slurmext.agent.main", "--node", node]

    def ready() -> bool:
        return _accepts(layout.slurmext_run / f"agent-{node}.sock")

    env = _python_env()
    if record.spec.gpus:
        # Where pynvml finds the simulated driver, and the driver its GPUs; where its device nodes are.
        env |= {"LD_LIBRARY_PATH": str(layout.nvml), nvml.ENVIRONMENT: str(layout.nvml / f"{node}.gpus"),
                nvml.DRIVER_ROOT: str(layout.nvml / f"{node}.root")}  # fmt: skip
    return Component(name=name, argv=argv, ready=ready, log=layout.log / f"{name}.out", env=env)


def _python_env() -> dict[str, str]:
    given = {key: os.environ[key] for key in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE") if key in os.environ}
    return {"PYTHONUNBUFFERED": "1", **given}


def _in_cluster(record: Record, layout: Layout) -> list[str]:
    return namespaces.entry(layout, namespaces.CLUSTER, "mnt") if record.isolated else []


def _in_node(record: Record, layout: Layout, node: str) -> list[str]:
    if not record.isolated:
        return []
    kinds = ["mnt", "uts", *(["net"] if record.subnet else [])]
    return namespaces.entry(layout, namespaces.node_holder(node), *kinds)


def _daemon(name: str) -> str:
    return f"/usr/sbin/{name}"


def _listens(name: str, layout: Layout, port: int) -> bool:
    """Whether a component listens on its port, as the kernel tells: Slurm logs a bare connection as an error."""
    try:
        table = Path(f"/proc/{processes.pid_of(name, layout)}/net/tcp").read_text(encoding="ascii")
    except OSError:
        return False
    rows = (line.split() for line in table.splitlines()[1:])
    return any(row[1].endswith(f":{port:04X}") and row[3] == _LISTEN for row in rows)


def _accepts(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(str(path)) == 0
