"""Booting a cluster and taking it down."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurmext.devcluster import (
    accounting,
    conf,
    namespaces,
    netns,
    packages,
    ports,
    processes,
    roots,
    sweep,
    users,
    wrappers,
)
from slurmext.devcluster.components import PYTHON, Component, address, components, controller_address
from slurmext.devcluster.errors import BadSpec, DevclusterError
from slurmext.devcluster.record import Record
from slurmext.devcluster.spec import NATIVE, ClusterSpec, Layout, chosen
from slurmext.testing import mps, nvml

if TYPE_CHECKING:
    from slurmext.devcluster.packages import Say

_READY_S: Final = 60


def up(spec: ClusterSpec, say: Say) -> Record:
    """Boot a cluster; returns when every node is idle. Raises DevclusterError, with nothing left behind."""
    users.require_root("boots a devcluster")
    if spec.directory.exists():
        down = f"take it down (`slurmext devcluster down{chosen(spec.directory)}`)"
        remedy = down if Layout(spec.directory).record.exists() else "no devcluster is in it: remove it"
        raise BadSpec(f"{spec.directory} exists: {remedy}, or choose another --name")
    sweep.sweep(say)
    for kind in unknown_types(spec):
        say(f"gpu type {kind!r} is none of {', '.join(nvml.CARDS)}: simulated as a card of "
            f"{nvml.OTHER.memory_mib >> 10} GiB that can be shared and not cut")  # fmt: skip
    packages.ensure(
        [packages.SLURM, *([packages.DBD] if spec.dbd else []), *([packages.NETNS] if spec.netns else [])], say
    )
    root = None if spec.release == NATIVE else roots.ensure_root(spec.release, say)
    isolated = namespaces.supported()
    if not isolated and (root or spec.netns):
        raise DevclusterError("--release and --netns need mount namespaces, which this machine or container forbids")
    started_s = time.monotonic()
    old_umask = os.umask(0o022)  # every user reads the configuration, whatever the caller's habit
    try:
        record = _claim(spec, root, isolated=isolated)
        try:
            _prepare(record)
            _start_all(record, say)
        except BaseException:
            tear_down(record)
            raise
    finally:
        os.umask(old_umask)
    record = replace(record, ready_s=round(time.monotonic() - started_s, 2))
    record.save()
    say(f"ready in {record.ready_s:.1f} s")
    return record


def unknown_types(spec: ClusterSpec) -> list[str]:
    """Types of GPUs of which the simulated driver knows no card by name."""
    simulated = spec.gpu_types if spec.gpus and not spec.plain else ()
    return [kind for kind in dict.fromkeys(simulated) if nvml.card_of(kind) is nvml.OTHER]


def _claim(spec: ClusterSpec, root: Path | None, *, isolated: bool) -> Record:
    """Choose ports and addresses and make the directory that holds the choice."""
    names = ["slurmctld", *(f"slurmd@{node}" for node in spec.node_names), "slurmextd"]
    names += ["slurmdbd", "mariadbd"] if spec.dbd else []
    version = slurm_version(root)
    with ports.claiming():
        record = Record(
            spec=spec,
            ports=dict(zip(names, ports.free_ports(len(names)), strict=True)),
            version=version,
            isolated=isolated,
            root=root,
            subnet=ports.free_subnet() if spec.netns else None,
        )
        spec.directory.mkdir(parents=True, mode=0o755)
        record.save()
    return record


def _prepare(record: Record) -> None:
    """Write everything that can be written before a process runs."""
    spec = record.spec
    layout = Layout(spec.directory)
    _make_directories(spec, layout)
    (layout.etc / "munge.key").write_bytes(secrets.token_bytes(128))
    (layout.etc / "munge.key").chmod(0o400)
    for index in range(spec.gpus):
        # Slurm wants a character device with a number in its name; this one harms nobody and needs no privilege.
        (layout.dev / f"nvidia{index}").symlink_to("/dev/null")
    network = conf.Network(
        ctl_host=socket.gethostname().partition(".")[0],
        ctl_addr=controller_address(record),
        node_addrs={node: address(record, index) for index, node in enumerate(spec.node_names)},
        node_hostname=None if record.isolated else socket.gethostname().partition(".")[0],
        ports=record.ports,
    )
    conf.render_all(spec, layout, network, version=record.version, root=record.root)
    if spec.dbd:
        _own(layout.etc / "slurmdbd.conf", 0o600)
    wrappers.write_wrappers(layout, record.root)
    _copy_package(layout)
    if spec.gpus and not spec.plain:
        nvml.build(layout.nvml)
        mps.build(layout.nvml)
        for index, node in enumerate(spec.node_names):
            types = (spec.gpu_type(index),) * spec.gpus
            path, root = layout.nvml / f"{node}.gpus", layout.nvml / f"{node}.root"
            nvml.SimulatedGpus.create(path, types, cluster=spec.name, node=node, root=root)


def _make_directories(spec: ClusterSpec, layout: Layout) -> None:
    for path in (layout.bin, layout.etc, layout.run, layout.pids, layout.munge_socket.parent, layout.slurmext_run,
                 layout.log, layout.state, layout.dev, layout.home, layout.prefix, layout.python,
                 layout.state / "agent", layout.state / "slurmext"):  # fmt: skip
        path.mkdir(exist_ok=True, mode=0o755)
        path.chmod(0o755)  # munged refuses a looser umask's work, users need no tighter one
    (layout.root / "scratch").mkdir()
    (layout.root / "scratch").chmod(0o1777)
    for node in spec.node_names:
        (layout.state / f"slurmd-{node}").mkdir(mode=0o755)
    for name in ("slurmctld.log", "slurmdbd.log", "jobcomp.log"):
        (layout.log / name).touch()
        _own(layout.log / name, 0o644)
    (layout.state / "slurmctld").mkdir()
    _own(layout.state / "slurmctld", 0o700)
    users.create(spec.users)


def _own(path: Path, mode: int) -> None:
    entry = pwd.getpwnam("slurm")
    os.chown(path, entry.pw_uid, entry.pw_gid)
    path.chmod(mode)


def _copy_package(layout: Layout) -> None:
    """Put what jobs import where every user can read it: a checkout below /root is closed to them."""
    source = Path(__file__).parents[1]
    target = layout.python / source.name
    target.mkdir()
    for part in ("__init__.py", "checkpoint", "errors.py", "hooks", "staging"):
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif (source / part).exists():
            shutil.copyfile(source / part, target / part)


def slurm_version(root: Path | None) -> tuple[int, int]:
    """Major and minor of the host's Slurm or of a root's: (22, 5)."""
    # A daemon's, because the commands read their configuration before they tell their version.
    program = dict(wrappers.programs(root))["slurmctld"]
    told = subprocess.run([*wrappers.launcher(program, root), "-V"], check=False, capture_output=True, text=True)
    match = re.search(r"(\d+)\.(\d+)", told.stdout)
    if match is None:
        raise DevclusterError(f"{program} -V said {told.stdout + told.stderr!r}")
    return int(match[1]), int(match[2])


def _start_all(record: Record, say: Say) -> None:
    layout = Layout(record.spec.directory)
    if record.isolated:
        namespaces.open_cluster(layout, record.root)
        for node in record.spec.node_names:
            namespaces.open_node(layout, node, network=record.subnet is not None)
    if record.subnet:
        netns.open_links(record)
    parts = components(record)
    say(f"starting Slurm {record.version[0]}.{record.version[1]:02d} with {record.spec.nodes} nodes in {layout.root}")
    start(parts.pop("munged"), layout)
    if record.spec.dbd:
        accounting.initialise(record)
        start(parts.pop("mariadbd"), layout)
        accounting.create_database(record)
        start(parts.pop("slurmdbd"), layout)
        accounting.create_associations(record)
    if not record.spec.plain:
        _install(record)
    start(parts.pop("slurmctld"), layout)
    for part in parts.values():
        _spawn(part, layout)
    for part in parts.values():
        _await_ready(part, layout)
    _await_idle(record)


def start(part: Component, layout: Layout) -> None:
    """Start a component and wait until it answers. Raises DevclusterError with the end of its log."""
    _spawn(part, layout)
    _await_ready(part, layout)


def _spawn(part: Component, layout: Layout) -> None:
    env = namespaces.daemon_environment(layout) | dict(part.env)
    processes.spawn(part.name, part.argv(), layout, env=env, user=part.user)


def _await_ready(part: Component, layout: Layout) -> None:
    def settled() -> bool:
        processes.reap()
        return processes.pid_of(part.name, layout) is None or part.ready()

    done = processes.await_true(settled, timeout_s=_READY_S)
    if not done or processes.pid_of(part.name, layout) is None:
        raise DevclusterError(f"{part.name} does not come up: {_tail(part, layout)}")


def _tail(part: Component, layout: Layout) -> str:
    for path in dict.fromkeys((part.log, layout.log / f"{part.name}.out")):
        if path.exists() and (lines := path.read_text(errors="replace").strip().splitlines()):
            return " | ".join(lines[-3:])
    return "it printed nothing"


def _install(record: Record) -> None:
    """Put slurmext in by the command an admin uses."""
    layout = Layout(record.spec.directory)
    include = ["--spank-include", str(record.root / "usr/include")] if record.root else []
    command = [
        *PYTHON, "slurmext.cli", "install", "--yes",
        "--slurm-conf", str(layout.slurm_conf),
        "--prefix-dir", str(layout.prefix),
        "--site-config", str(layout.site_config),
        # Jobs' task prologs run as their users, in another release by its own interpreter: ours may be neither
        # readable nor there.
        "--hook-python", "/usr/bin/python3",
        *include,
    ]  # fmt: skip
    env = {**os.environ, "SLURMEXT_CONF": str(layout.site_config), "SLURM_CONF": str(layout.slurm_conf)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    (layout.log / "install.out").write_text(done.stdout + done.stderr)
    if done.returncode != 0:
        raise DevclusterError(f"slurmext install failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")


def _await_idle(record: Record) -> None:
    layout = Layout(record.spec.directory)
    command = [str(layout.bin / "sinfo"), "--noheader", "--Node", "--format=%N %T"]
    told = ""

    def idle() -> bool:
        nonlocal told
        told = subprocess.run(command, check=False, capture_output=True, text=True).stdout
        lines = told.splitlines()
        return len(lines) == record.spec.nodes and all(line.endswith(" idle") for line in lines)

    if not processes.await_true(idle, timeout_s=_READY_S, every_s=0.1):
        raise DevclusterError(f"nodes are not idle after {_READY_S} s: {' '.join(told.split())}")


def tear_down(record: Record, *, keep: bool = False) -> None:
    """Stop every process, remove links and the directory. Raises DevclusterError when something stays."""
    users.require_root("takes a devcluster down")
    layout = Layout(record.spec.directory)
    if keep:  # let them write their state; what is thrown away need not be saved
        for name in ("slurmctld", "slurmdbd", "mariadbd"):
            pid = processes.pid_of(name, layout)
            if pid is not None:
                processes.stop(pid, grace_s=10)
    processes.kill_members(layout)
    netns.close_links(record)
    if keep:
        return
    if points := roots.mounts_below(layout.root):  # removing through a mount would delete what is mounted
        raise DevclusterError(f"{points[0]} is still mounted: umount it, then take the cluster down again")
    shutil.rmtree(layout.memory, ignore_errors=True)
    shutil.rmtree(layout.root)
