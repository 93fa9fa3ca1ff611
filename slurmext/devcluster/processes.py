"""Processes of a cluster: started detached with a pid file, found again, and none overlooked when it goes down."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurmext.devcluster.errors import DevclusterError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from slurmext.devcluster.spec import Layout

# In the environment of every daemon we start outside the cluster's mount namespace, and so of its children.
MARKER: Final = "SLURMEXT_DEVCLUSTER_DAEMON"

_children: list[subprocess.Popen[bytes]] = []

_CLIENTS: Final = frozenset({"srun", "salloc", "sbatch", "squeue", "scontrol", "sacct", "sinfo", "sattach", "scancel"})


def spawn(
    name: str,
    argv: Sequence[str],
    layout: Layout,
    *,
    env: Mapping[str, str],
    user: str | None = None,
) -> int:
    """Start a daemon in a session of its own, its output in `log/NAME.out`, its pid in `run/pids/NAME`; returns it."""
    with (layout.log / f"{name}.out").open("ab") as out:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=dict(env),
            cwd=layout.root,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            umask=0o022,
        )
    _children.append(child)
    (layout.pids / name).write_text(f"{child.pid} {_start_ticks(child.pid)}\n")
    return child.pid


def pid_of(name: str, layout: Layout) -> int | None:
    """The pid of a running component, or None. A reused pid is not taken for it: its start time differs."""
    try:
        pid_text, ticks = (layout.pids / name).read_text().split()
    except (OSError, ValueError):
        return None
    pid = int(pid_text)
    return pid if _start_ticks(pid) == int(ticks) else None


def _start_ticks(pid: int) -> int:
    """The start time of a live process in clock ticks since boot; 0 for none and for a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def send(pid: int, sig: int) -> None:
    """Signal a process; one that is gone already is no error."""
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        return


def stop(pid: int, *, grace_s: float) -> bool:
    """TERM, then KILL after the grace. True when TERM was enough."""
    send(pid, signal.SIGTERM)
    if await_true(lambda: _gone(pid), timeout_s=grace_s):
        return True
    send(pid, signal.SIGKILL)
    await_true(lambda: _gone(pid), timeout_s=5)
    return False


def _gone(pid: int) -> bool:
    reap()
    return _start_ticks(pid) == 0


def reap() -> None:
    """Collect our own ended children (a test process starts daemons and outlives them)."""
    _children[:] = [child for child in _children if child.poll() is None]


def await_true(check: Callable[[], object], *, timeout_s: float, every_s: float = 0.02) -> bool:
    """Whether `check` became true within the time."""
    end_s = time.monotonic() + timeout_s
    while True:
        if check():
            return True
        if time.monotonic() > end_s:
            return False
        time.sleep(every_s)


def marked() -> set[Path]:
    """Directories of the clusters that have a daemon, or a child of one, anywhere on this host."""
    mark = f"{MARKER}=".encode()
    found: set[Path] = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # it ended while we looked
            continue
        found |= {Path(os.fsdecode(word.removeprefix(mark))) for word in words if word.startswith(mark)}
    return found


def members(layout: Layout) -> list[int]:
    """Every live process of the cluster except this one: daemons, jobs whatever they did to escape, waiting clients.

    Processes in the cluster's mount namespace are known by the marker mount, the rest by what we put into the
    environment of our daemons, and shares' MPS daemons, which have nothing of it, by their pipes; a client started by
    hand by its SLURM_CONF.
    """
    mark = f" {layout.marker} ".encode()
    daemon_env = f"{MARKER}={layout.root}".encode()
    mps_env = f"CUDA_MPS_PIPE_DIRECTORY={layout.slurmext_run}/".encode()
    client_env = f"SLURM_CONF={layout.slurm_conf}".encode()
    inside: dict[str, bool] = {}
    found: list[int] = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or (pid := int(entry.name)) == os.getpid() or _start_ticks(pid) == 0:
            continue
        proc = Path(entry.path)
        try:
            namespace = (proc / "ns/mnt").readlink().name
            if namespace not in inside:
                inside[namespace] = mark in (proc / "mountinfo").read_bytes()
            environment = (proc / "environ").read_bytes().split(b"\0")
            command = (proc / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended while we looked
            continue
        is_client = client_env in environment and not _CLIENTS.isdisjoint(
            os.fsdecode(word).rpartition("/")[2] for word in command[:6]
        )
        is_mps = any(word.startswith(mps_env) for word in environment)
        if inside[namespace] or daemon_env in environment or is_mps or is_client:
            found.append(pid)
    return sorted(found)


def kill_members(layout: Layout) -> None:
    """KILL every process of the cluster. Raises DevclusterError with those that stay."""

    def none_left() -> bool:
        reap()
        left = members(layout)
        for pid in left:
            send(pid, signal.SIGKILL)
        return not left

    if not await_true(none_left, timeout_s=10):
        raise DevclusterError(f"processes of {layout.root} do not end: {describe(members(layout))}")


def describe(pids: Iterable[int]) -> str:
    """`pid name` of each, for messages."""
    texts: list[str] = []
    for pid in pids:
        try:
            texts.append(f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}")
        except OSError:
            continue
    return ", ".join(texts)
