"""Lets a job's processes open its own GPUs and no others, on top of what Slurm does there.

A slice job asks Slurm for no GPU. With ConstrainDevices=yes Slurm therefore keeps every GPU from it: on cgroup v2 by a
BPF program on its job, step (both to be overridden from below) and task (not so) cgroups, on v1 by lists.
What is attached there is replaced in kind; where nothing is, ours goes to the job's cgroup.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from slurmext.adapters.devices import bpf
from slurmext.errors import DeviceAccessError

_SHARED_FROM = 254
"""Of the GPUs' major number: nvidia-modeset 254, nvidiactl 255 are no GPU."""
_MOST_BESIDE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What a job may open: minor numbers of GPUs, and of capabilities. Majors None: there are no such devices.

    `gpus_there` are the minor numbers of all GPUs. `never`: devices (major, minor) that gres.conf names.
    """

    gpu_major: int | None
    gpus: Sequence[int]
    gpus_there: Sequence[int]
    caps_major: int | None
    caps: Sequence[int]
    never: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchies:
    """Where the kernel's cgroups are mounted: v2's, and v1's of devices. None: not on this node."""

    unified: Path | None
    devices: Path | None

    @classmethod
    def of_this_node(cls) -> Hierarchies:
        """As /proc/self/mounts has them."""
        unified = devices = None
        for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
            _, where, kind, options, *_ = line.split()
            if kind == "cgroup2":
                unified = unified or Path(where)
            elif kind == "cgroup" and "devices" in options.split(","):
                devices = devices or Path(where)
        return cls(unified=unified, devices=devices)


def admit(hierarchies: Hierarchies, pid: int, job_id: int, allowed: Allowed) -> str:
    """Let the job of this process open what is allowed and no other GPU. Raises DeviceAccessError.

    Returns how: `v2`, `v1`, `v1 v2`, or nothing where the process is in no cgroup of that job's.
    """
    done: list[str] = []
    try:
        places = _places(pid)
        if hierarchies.devices is not None and (levels := list(_levels(hierarchies.devices, places.v1, job_id))):
            _write_lists(levels, allowed)
            done.append("v1")
        if hierarchies.unified is not None and (levels := list(_levels(hierarchies.unified, places.v2, job_id))):
            _attach_programs(levels, allowed)
            done.append("v2")
    except OSError as error:
        raise DeviceAccessError(f"devices of job {job_id}: {error.filename or 'cgroup'}: {error.strerror}") from error
    return " ".join(done)


@dataclass(frozen=True, slots=True)
class _Places:
    v1: str
    v2: str


def _places(pid: int) -> _Places:
    v1 = v2 = ""
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8", errors="replace").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            v2 = path
        elif "devices" in controllers.split(","):
            v1 = path
    return _Places(v1, v2)


def _levels(mount: Path, path: str, job_id: int) -> Iterator[Path]:
    """The job's cgroup and those of the process below it. Nothing if it is in none of the job's, so of another's."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts or f"job_{job_id}" not in parts:
        return
    for depth in range(parts.index(f"job_{job_id}") + 1, len(parts) + 1):
        yield mount.joinpath(*parts[:depth])


def _attach_programs(levels: Sequence[Path], allowed: Allowed) -> None:
    with ExitStack() as stack:
        folders = [os.open(level, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for level in levels]
        for folder in folders:
            stack.callback(os.close, folder)
        known = [(folder, *bpf.attached(folder)) for folder in folders]
        slurms = [(folder, flags) for folder, programs, flags in known if programs and not flags & bpf.ALLOW_MULTI]
        loaded = bpf.load(_program(allowed, constrained=bool(slurms)))
        stack.callback(os.close, loaded)
        for folder, flags in reversed(slurms):  # the task's first: what is above it comes into force below it
            bpf.attach(folder, loaded, flags)
        if not slurms:
            job, programs, flags = known[0]
            if not flags & bpf.ALLOW_MULTI:
                bpf.attach(job, loaded, bpf.ALLOW_OVERRIDE)
            elif len(programs) < _MOST_BESIDE:  # somebody else's, who wants all to agree
                bpf.attach(job, loaded, bpf.ALLOW_MULTI)


def _program(allowed: Allowed, *, constrained: bool) -> bytes:
    """With `constrained` it takes the place of Slurm's, so it keeps what that keeps."""
    pairs = ((allowed.gpu_major, allowed.gpus), (allowed.caps_major, allowed.caps))
    only = {major: minors for major, minors in pairs if major is not None}
    above = {} if allowed.gpu_major is None else {allowed.gpu_major: _SHARED_FROM}
    return bpf.program(bpf.DeviceRules(only=only, above=above, never=allowed.never if constrained else ()))


def _write_lists(levels: Sequence[Path], allowed: Allowed) -> None:
    """From the job's down: a cgroup gives no more than its parent has. Lists take no exception from a whole major, so
    capabilities of others are left to the owners of their nodes.
    """
    if allowed.gpu_major is None:
        return
    for level in levels:
        for minor in allowed.gpus:
            _write(level / "devices.allow", f"c {allowed.gpu_major}:{minor} rw")
        for minor in allowed.caps if allowed.caps_major is not None else ():
            _write(level / "devices.allow", f"c {allowed.caps_major}:{minor} rw")
    for minor in set(allowed.gpus_there) - set(allowed.gpus):
        _write(levels[0] / "devices.deny", f"c {allowed.gpu_major}:{minor} rwm")


def _write(path: Path, line: str) -> None:
    with path.open("w", encoding="ascii") as file:
        file.write(line)


def gpu_nodes(dev: Path) -> tuple[int | None, tuple[int, ...]]:
    """Major and minor numbers of the GPUs' device nodes there."""
    major: int | None = None
    minors: list[int] = []
    for entry in os.scandir(dev):
        if entry.name.startswith("nvidia") and entry.name[6:].isdigit():
            found = entry.stat(follow_symlinks=False)
            if stat.S_ISCHR(found.st_mode):
                major = os.major(found.st_rdev)
                minors.append(os.minor(found.st_rdev))
    return major, tuple(sorted(minors))
