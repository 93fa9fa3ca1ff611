"""What stands in the way of saving a program from outside, said before CRIU is asked."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

_KINDS = ("mnt", "net", "pid", "user")
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_ESTABLISHED = "01"
_ALLOWED_DEVICES = (
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/shm/",  # noqa: S108 - a prefix to compare with
    "/dev/nvidia",
)


def of_job(environment: Mapping[str, str]) -> str | None:
    """Why a job cannot be saved whatever it runs, None when nothing is known to be in the way."""
    nodes = environment.get("SLURM_NNODES") or environment.get("SLURM_JOB_NUM_NODES") or "1"
    if nodes != "1":
        return f"the job has {nodes} nodes, and only what runs on one node can be saved from outside; use --ckpt=auto"
    if (environment.get("SLURM_HET_SIZE") or "0") != "0":
        return "the job is a heterogeneous one; use --ckpt=auto"
    return None


def below(pid: int, proc: str = "/proc") -> list[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for name in os.listdir(proc):
        if name.isdigit():
            children.setdefault(_parent(int(name), proc), []).append(int(name))
    found, ahead = list[int](), [pid]
    while ahead:
        one = ahead.pop()
        found.append(one)
        ahead += children.get(one, ())
    return found


def of_processes(pids: Iterable[int], proc: str = "/proc") -> list[str]:
    """What these processes do that cannot be saved, one line each."""
    pids = list(pids)
    if not pids:
        return ["the program is not there any more"]
    found = list[str]()
    mine = {kind: _link(f"{proc}/self/ns/{kind}") for kind in _KINDS}
    connections = _connections(pids[0], proc)
    for pid in pids:
        who = f"{_name(pid, proc)} (process {pid})"
        found += [
            f"{who} runs in a container of its own ({kind} namespace)"
            for kind in _KINDS
            if (its := _link(f"{proc}/{pid}/ns/{kind}")) and its != mine[kind]
        ]
        for name in _listed(f"{proc}/{pid}/fd"):
            target = _link(f"{proc}/{pid}/fd/{name}")
            if (inode := _SOCKET.fullmatch(target)) and inode[1] in connections:
                found.append(f"{who} is connected to {connections[inode[1]]}")
            elif target.startswith("/dev/") and not target.startswith(_ALLOWED_DEVICES):
                found.append(f"{who} has the device {target} open")
    return list(dict.fromkeys(found))


def _connections(pid: int, proc: str) -> dict[str, str]:
    """Inode -> peer of each TCP connection, those between processes of the job too: a user may not freeze either."""
    peers: dict[str, str] = {}
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"{proc}/{pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            remote, state, inode = (line.split()[column] for column in (2, 3, 9))
            if state == _ESTABLISHED:
                peers[inode] = _address(remote)
    return peers


def _address(text: str) -> str:
    """`0100007F:1F90` of /proc/net/tcp as 127.0.0.1:8080: words of four bytes in the machine's order."""
    raw, _, port = text.partition(":")
    packed = b"".join(struct.pack("=I", int(raw[at : at + 8], 16)) for at in range(0, len(raw), 8))
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6  # noqa: PLR2004
    return f"{ipaddress.ip_address(socket.inet_ntop(family, packed))}:{int(port, 16)}"


def _parent(pid: int, proc: str) -> int:
    try:
        return int(
            Path(f"{proc}/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
        )
    except (OSError, IndexError, ValueError):
        return 0


def _name(pid: int, proc: str) -> str:
    try:
        return Path(f"{proc}/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "?"


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
