"""Staging engines, one in each network namespace of a devcluster, told what to do as slurmextd would tell them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from slurmext.devcluster import Devcluster, namespaces, netns
from slurmext.staging.manifest import Manifest
from slurmext.staging.plan.fabric import STORAGE, Assignment, Host, Replica, Request, Storage
from slurmext.staging.plan.multicast import plan_multicast
from slurmext.staging.store.mount import mount_memory, unmount_memory

LIMIT_S = 600
PORT = 6850


class Nodes:
    """Engines on the nodes of a cluster that was booted with netns. `n1` is the first."""

    def __init__(self, cluster: Devcluster, room: Path) -> None:
        self.cluster = cluster
        self.names = list(cluster.node_names)
        self.room = room
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        for name in self.names:
            self.start(name)
        return self

    def __exit__(self, *_exception: object) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.wait()

    def inside(self, name: str) -> list[str]:
        """The command prefix that runs a program in a node's network."""
        return namespaces.entry(self.cluster.layout, namespaces.node_holder(name), "net")

    def ip(self, name: str) -> str:
        """A node's address."""
        return netns.node_address(str(self.cluster.record.subnet), self.names.index(name))

    def start(self, name: str) -> None:
        """Start a node's engine."""
        command = [
            *self.inside(name), sys.executable, "-P", "-m", "slurmext.agent.staging.solo", "--node", name,
            "--listen", f"{self.ip(name)}:{PORT}", "--control", str(self.room / f"{name}.sock"),
            "--memory", str(self.room / name), "--mib", "16384", "--spare-mib", "4096",
            "--munge-socket", str(self.cluster.layout.munge_socket),
        ]  # fmt: skip
        with (self.room / f"{name}.log").open("a") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        if not process.stdout.readline().startswith("ready"):
            raise SystemExit(f"the engine of {name} does not start:\n{(self.room / f'{name}.log').read_text()}")
        self._processes[name] = process

    def kill(self, name: str) -> None:
        """As a crash would."""
        self._processes[name].send_signal(signal.SIGKILL)
        self._processes[name].wait()

    def ask(self, name: str, op: str, **words: Any) -> dict[str, Any]:
        """A request to a node's engine."""
        try:
            return ask(self.room / f"{name}.sock", op, **words)
        except EOFError:
            log = (self.room / f"{name}.log").read_text()[-2000:]
            raise SystemExit(f"the engine of {name} hung up:\n{log}") from None

    def learn(self, manifest: Manifest) -> None:
        """Give every node a manifest, as the registry does."""
        path = self.room / "manifest"
        path.write_bytes(manifest.dump())
        for name in self.names:
            self.ask(name, "stage_learn", path=str(path))

    def stage(self, manifest: Manifest, assignment: Assignment, storage: Path | None = None) -> None:
        """Hand out an assignment."""
        self.ask(
            assignment.node, "stage", model=manifest.key.name, revision=manifest.key.revision,
            fingerprint=manifest.fingerprint(),
            sources=[[feed.source, self._address(feed.source, storage), feed.share, None] for feed in assignment.feeds],
            backups=[[name, self._address(name, storage)] for name in assignment.backups],
        )  # fmt: skip

    def _address(self, name: str, storage: Path | None) -> str:
        return str(storage) if name == STORAGE else f"{self.ip(name)}:{PORT}"

    def wait(self, manifest: Manifest, names: list[str]) -> dict[str, float]:
        """When each has the model (monotonic seconds)."""
        done: dict[str, float] = {}

        def wait_for(name: str) -> None:
            said = self.ask(name, "stage_wait", timeout_s=LIMIT_S, **place(manifest))
            if said["complete"]:
                done[name] = time.monotonic()

        threads = [threading.Thread(target=wait_for, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if missing := set(names) - set(done):
            told = [self.ask(name, "stage_progress") for name in sorted(missing)]
            raise SystemExit(f"{', '.join(sorted(missing))} did not get the model: {told}")
        return done

    def progress(self, name: str) -> dict[str, Any]:
        """What a node says of its (only) model; empty when it has none."""
        models = self.ask(name, "stage_progress")["models"]
        return models[0] if models else {}

    def evict(self, manifest: Manifest, names: list[str]) -> None:
        """Remove the model again."""
        for name in names:
            if self.progress(name):
                self.ask(name, "stage_evict", **place(manifest))

    def run(
        self, manifest: Manifest, assignments: tuple[Assignment, ...], storage: Path | None = None
    ) -> dict[str, float]:
        """Hand out a whole plan and wait; seconds until each target has the model. It is evicted afterwards."""
        started = time.monotonic()
        for assignment in assignments:
            self.stage(manifest, assignment, storage)
        names = [assignment.node for assignment in assignments]
        done = {name: at - started for name, at in self.wait(manifest, names).items()}
        self.evict(manifest, names)
        return done


def ask(control: Path, op: str, **words: Any) -> dict[str, Any]:
    """A request to an engine. Raises EOFError when it hangs up."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LIMIT_S)
        connection.connect(str(control))
        connection.sendall(json.dumps({"op": op, **words}).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            piece = connection.recv(65536)
            if not piece:
                raise EOFError(control)
            answer += piece
    said = json.loads(answer)
    if not said["ok"]:
        raise SystemExit(f"{control.stem}: {op}: {said['error']}")
    return said


def place(manifest: Manifest) -> dict[str, str]:
    """Which model, as requests name it."""
    return {"model": manifest.key.name, "revision": manifest.key.revision}


def planned(
    manifest: Manifest, hosts: list[Host], sources: list[str], targets: list[str], storage: Storage | None = None
) -> tuple[Assignment, ...]:
    """Our plan."""
    return plan_multicast(
        Request(
            size_bytes=manifest.size,
            hosts=tuple(hosts),
            replicas=tuple(Replica(host=name) for name in sources),
            targets=tuple(targets),
            storage=storage,
        )
    ).assignments


def set_rate(nodes: Nodes, name: str, rate: str | None) -> None:
    """Limit a node's link in both directions; None lifts the limit."""
    bridge = netns.bridge(nodes.cluster.record)
    outer = f"{bridge}n{nodes.names.index(name) + 1}"
    for prefix, device in (([], outer), (nodes.inside(name), "eth0")):
        tc = [*prefix, "/usr/sbin/tc" if Path("/usr/sbin/tc").exists() else "tc", "qdisc"]
        subprocess.run([*tc, "del", "dev", device, "root"], check=False, capture_output=True)
        if rate is not None:
            burst = max(65536, netns.bits_per_s(rate) // 800)
            limit = ["tbf", "rate", rate, "burst", str(burst), "latency", "50ms"]
            subprocess.run([*tc, "add", "dev", device, "root", *limit], check=True, capture_output=True)


def counters(nodes: Nodes, name: str) -> tuple[int, int]:
    """Bytes sent and received by a node so far."""
    words = [*nodes.inside(name), "cat", "/proc/net/dev"]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    row = next(line.split() for line in told.splitlines() if line.strip().startswith("eth0"))
    return int(row[9]), int(row[1])


@contextlib.contextmanager
def memory_room(mib: int) -> Iterator[Path]:
    """A tmpfs of this run's own, to be made before the cluster, whose jobs see what was mounted before it."""
    room = room_for(mib)
    mount_memory(room, mib << 20)
    try:
        yield room
    finally:
        unmount_memory(room)
        shutil.rmtree(room, ignore_errors=True)


def room_for(mib: int) -> Path:
    """A directory in memory of this run's own. Ends the benchmark when there is no room for `mib`."""
    disk = os.statvfs("/dev/shm")
    free = disk.f_bavail * disk.f_frsize >> 20
    if free < mib:
        raise SystemExit(f"/dev/shm has {free} MiB free, this needs {mib}: mount -o remount,size={mib * 2}m /dev/shm")
    return Path(f"/dev/shm/slurmext-bench-{os.getpid()}")
