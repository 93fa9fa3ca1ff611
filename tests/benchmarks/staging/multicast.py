"""Figures that need several nodes: ideal ratio, peers, direction, unequal links, deaths, one hop, shared storage."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slurmext.devcluster import netns
from slurmext.staging.manifest import Manifest
from slurmext.staging.plan.conduct import Conductor, Report
from slurmext.staging.plan.fabric import Assignment, Feed, Host, Replica, Request, Storage
from staging.nodes import LIMIT_S, Nodes, counters, planned, set_rate

FLOWS = str(Path(__file__).with_name("flows.py"))
SOURCE = "n1"


def hosts_of(nodes: Nodes, rate: str, slow: dict[str, str] | None = None) -> list[Host]:
    """The nodes as the planner sees them."""
    rates = {name: netns.bits_per_s((slow or {}).get(name, rate)) for name in nodes.names}
    return [Host(name=name, tx_bps=bps, rx_bps=bps) for name, bps in rates.items()]


def seed(nodes: Nodes, manifest: Manifest, storage: Path) -> None:
    """Have the model on the source."""
    feed = Assignment(
        node=SOURCE, feeds=(Feed(source="(storage)", share=1, rate_bps=1),), backups=(), rate_bps=1, depth=1
    )
    nodes.stage(manifest, feed, storage)
    nodes.wait(manifest, [SOURCE])


def ideal_ratios(nodes: Nodes, manifest: Manifest, rate: str, rounds: int) -> dict[int, float]:
    """N -> time ÷ (size / bandwidth), median of the rounds; N goes up and down so that drift hits all alike."""
    floor_s = manifest.size * 8 / netns.bits_per_s(rate)
    taken: dict[int, list[float]] = {count: [] for count in (1, 2, 4, 8) if count < len(nodes.names)}
    for _ in range(rounds):
        for count, ratios in taken.items():
            targets = nodes.names[1 : count + 1]
            done = nodes.run(manifest, planned(manifest, hosts_of(nodes, rate), [SOURCE], targets))
            ratios.append(max(done.values()) / floor_s)
            print(f"  N={count}: {max(done.values()):6.2f} s   {ratios[-1]:.3f}", flush=True)
    return {count: round(statistics.median(values), 3) for count, values in taken.items()}


def star(nodes: Nodes, manifest: Manifest, count: int) -> float:
    """Seconds when the source feeds everybody, in the same code."""
    feeds = (Feed(source=SOURCE, share=1, rate_bps=1),)
    targets = nodes.names[1 : count + 1]
    whole = tuple(Assignment(node=name, feeds=feeds, backups=(), rate_bps=1, depth=1) for name in targets)
    return max(nodes.run(manifest, whole).values())


def tree(nodes: Nodes, manifest: Manifest, count: int) -> float:
    """Seconds in a binary tree, in the same code."""
    order = nodes.names[: count + 1]
    whole = tuple(
        Assignment(node=name, feeds=(Feed(source=order[(at - 1) // 2], share=1, rate_bps=1),), backups=(), rate_bps=1, depth=1)
        for at, name in enumerate(order) if at
    )  # fmt: skip
    return max(nodes.run(manifest, whole).values())


def sbcast(nodes: Nodes, manifest: Manifest, count: int) -> float:
    """Seconds that Slurm's sbcast takes from the first of `count` + 1 nodes to the others, inside a job."""
    given = nodes.room / SOURCE / manifest.key.slug / manifest.key.revision / manifest.files[0].name
    taken, told = nodes.room / "sbcast", nodes.room / "sbcast.s"
    # Buckets as in any job script; the destination is one file here, since the nodes share their file system.
    script = (
        f"#!/bin/bash\nbegin=$(date +%s.%N)\nsbcast --force {given} {taken}\ncode=$?\n"
        f'end=$(date +%s.%N)\necho "$code $begin $end" > {told}.new\nmv {told}.new {told}\n'
    )
    path = nodes.room / "sbcast.sh"
    path.write_text(script)
    path.chmod(0o755)
    wanted = ",".join(nodes.names[: count + 1])
    words = ["--quiet", f"-N{count + 1}", f"-w{wanted}", "--output=/dev/null", str(path)]
    nodes.cluster.run(["sbatch", *words])
    deadline = time.monotonic() + LIMIT_S
    while not told.exists():
        if time.monotonic() > deadline:
            raise SystemExit("sbcast did not end")
        time.sleep(0.1)
    code, begin, end = told.read_text().split()
    told.unlink()
    taken.unlink(missing_ok=True)
    if code != "0":
        raise SystemExit(f"sbcast failed with exit code {code}")
    nodes.cluster.cancel_all()
    return float(end) - float(begin)


def rsync(nodes: Nodes, manifest: Manifest, count: int) -> float:
    """Seconds until `count` nodes took the files from an rsync daemon on the source, all at once."""
    given = nodes.room / SOURCE / manifest.key.slug / manifest.key.revision
    conf = nodes.room / "rsyncd.conf"
    conf.write_text(f"use chroot = no\nuid = root\ngid = root\n[model]\npath = {given}\nread only = yes\n")
    daemon = subprocess.Popen(
        [*nodes.inside(SOURCE), "rsync", "--daemon", "--no-detach", f"--config={conf}", "--port=6873"],
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(0.5)
        started = time.monotonic()
        url = f"rsync://{nodes.ip(SOURCE)}:6873/model/"
        clients = [
            subprocess.Popen(
                [
                    *nodes.inside(name),
                    "rsync",
                    "-a",
                    "--whole-file",
                    "--exclude=.slurmext",
                    url,
                    f"{nodes.room}/rsync-{name}/",
                ]
            )
            for name in nodes.names[1 : count + 1]
        ]
        if any(client.wait() for client in clients):
            raise SystemExit("rsync failed")
        return time.monotonic() - started
    finally:
        daemon.terminate()
        daemon.wait()
        for name in nodes.names:
            subprocess.run(["rm", "-rf", f"{nodes.room}/rsync-{name}"], check=True)


def direction(nodes: Nodes, manifest: Manifest, rate: str) -> tuple[float, float]:
    """(Mb/s a new target gets, per cent that an existing reader keeps): two sources, one busy in, one busy out.

    The planner is told of the loads that the nodes' counters show.
    """
    busy_in, busy_out, target, other, reader = nodes.names[:5]
    targets = [busy_out]
    nodes.stage(manifest, planned(manifest, hosts_of(nodes, rate), [SOURCE], targets)[0])
    nodes.wait(manifest, targets)
    with flow(nodes, other, busy_in, 7001), flow(nodes, busy_out, reader, 7002) as seen:
        time.sleep(3)
        before = statistics.mean(seen[-4:])
        loads = measured(nodes, 1.0)
        hosts = [
            Host(name=host.name, tx_bps=host.tx_bps, rx_bps=host.rx_bps, tx_used_bps=loads[host.name][0],
                 rx_used_bps=loads[host.name][1])
            for host in hosts_of(nodes, rate)
        ]  # fmt: skip
        plan = planned(manifest, hosts, [busy_in, busy_out], [target])
        at = len(seen)
        taken_s = statistics.median(nodes.run(manifest, plan)[target] for _ in range(3))
        during = statistics.mean(seen[at + 1 : -1] or seen[-2:])
    nodes.evict(manifest, [busy_out])
    print(f"  taken from {', '.join(feed.source for feed in plan[0].feeds)}; {busy_in} was busy in, {busy_out} out")
    return round(manifest.size * 8 / taken_s / 1e6, 1), round(100 * during / before, 1)


def measured(nodes: Nodes, span_s: float) -> dict[str, tuple[float, float]]:
    """Bits per second each node sends and receives."""
    before = {name: counters(nodes, name) for name in nodes.names}
    started = time.monotonic()
    time.sleep(span_s)
    after = {name: counters(nodes, name) for name in nodes.names}
    span_s = time.monotonic() - started
    return {
        name: ((after[name][0] - before[name][0]) * 8 / span_s, (after[name][1] - before[name][1]) * 8 / span_s)
        for name in nodes.names
    }


@contextlib.contextmanager
def flow(nodes: Nodes, sender: str, receiver: str, port: int) -> Iterator[list[float]]:
    """A TCP flow that takes what it gets; the list grows by what arrived (Mb/s) each half second."""
    sink = subprocess.Popen(
        [*nodes.inside(receiver), sys.executable, FLOWS, "sink", str(port)], stdout=subprocess.PIPE, text=True
    )
    assert sink.stdout is not None
    sink.stdout.readline()
    seen: list[float] = []
    listener = threading.Thread(target=lambda: seen.extend(float(line) for line in sink.stdout or ()), daemon=True)
    send = subprocess.Popen([*nodes.inside(sender), sys.executable, FLOWS, "send", nodes.ip(receiver), str(port)])
    grows = _Growing(seen)
    listener = threading.Thread(target=grows.follow, args=(sink,), daemon=True)
    listener.start()
    try:
        yield seen
    finally:
        send.kill()
        send.wait()
        sink.kill()
        sink.wait()


class _Growing:
    def __init__(self, seen: list[float]) -> None:
        self._seen = seen

    def follow(self, sink: subprocess.Popen[str]) -> None:
        for line in sink.stdout or ():
            self._seen.append(float(line))


def unequal(nodes: Nodes, manifest: Manifest, rate: str) -> float:
    """Time of the fast targets with one ten times slower among them ÷ without it."""
    slow = nodes.names[2]
    slow_rate = f"{netns.bits_per_s(rate) // 10}bit"
    fast = [name for name in nodes.names[1:6] if name != slow]
    without = max(nodes.run(manifest, planned(manifest, hosts_of(nodes, rate), [SOURCE], fast)).values())
    set_rate(nodes, slow, slow_rate)
    try:
        hosts = hosts_of(nodes, rate, {slow: slow_rate})
        started = time.monotonic()
        for assignment in planned(manifest, hosts, [SOURCE], [*fast, slow]):
            nodes.stage(manifest, assignment)
        done = nodes.wait(manifest, fast)
        nodes.evict(manifest, [*fast, slow])
        return (max(done.values()) - started) / without
    finally:
        set_rate(nodes, slow, rate)


def disturbed(nodes: Nodes, manifest: Manifest, rate: str, disturb: Any, victim: str) -> float:
    """Seconds until all but the victim have the model when `disturb` happens at 40 %; a conductor watches."""
    targets = nodes.names[1:5]
    conductor = Conductor(
        Request(
            size_bytes=manifest.size,
            hosts=tuple(hosts_of(nodes, rate)),
            replicas=(Replica(host=SOURCE),),
            targets=tuple(targets),
        )
    )
    started = time.monotonic()
    for assignment in conductor.changes(started):
        nodes.stage(manifest, assignment)
    others = [name for name in targets if name != victim]
    ended: dict[str, float] = {}
    watcher = threading.Thread(target=lambda: ended.update(nodes.wait(manifest, others)))
    watcher.start()
    gone = False
    happened = False
    while watcher.is_alive():
        time.sleep(0.25)
        for name in targets:
            if gone and name == victim:
                continue
            told = nodes.progress(name)
            if not told or not told["size"]:
                continue
            held = told["ready_bytes"] / told["size"]
            complete = told["state"] == "complete"
            conductor.report(
                Report(node=name, held=held, rate_bps=told["rate_bps"], starved=told["starved"], complete=complete),
                time.monotonic(),
            )
            if name == victim and held > 0.4 and not happened:
                happened = True
                gone = bool(disturb())
                if gone:
                    conductor.lost(victim)
                    break
        for assignment in conductor.changes(time.monotonic()):
            nodes.stage(manifest, assignment)
    watcher.join()
    return max(ended.values()) - started


def relay_death(nodes: Nodes, manifest: Manifest, rate: str, undisturbed_s: float) -> float:
    """Per cent that the survivors need longer when the second relay of four is killed at 40 %."""
    victim = nodes.names[2]

    def kill() -> bool:
        nodes.kill(victim)
        return True

    taken = disturbed(nodes, manifest, rate, kill, victim)
    nodes.start(victim)
    nodes.learn(manifest)
    nodes.evict(manifest, nodes.names[1:5])
    return round(100 * (taken / undisturbed_s - 1), 1)


def slowed_link(nodes: Nodes, manifest: Manifest, rate: str, undisturbed_s: float) -> float:
    """Per cent that the others need longer when the link of the second relay of four becomes ten times slower."""
    victim = nodes.names[2]

    def slow() -> bool:
        set_rate(nodes, victim, f"{netns.bits_per_s(rate) // 10}bit")
        return False

    try:
        taken = disturbed(nodes, manifest, rate, slow, victim)
    finally:
        set_rate(nodes, victim, rate)
    nodes.evict(manifest, nodes.names[1:5])
    return round(100 * (taken / undisturbed_s - 1), 1)


def one_hop(nodes: Nodes, manifest: Manifest, rate: str, rounds: int) -> tuple[float, float]:
    """(ours, sendfile) in GB/s over a link without limit, median of the rounds, in turns."""
    sender, receiver = nodes.names[:2]
    largest = max(manifest.files, key=lambda entry: entry.size)
    path = nodes.room / SOURCE / manifest.key.slug / manifest.key.revision / largest.name
    taken_path = nodes.room / "sendfile"
    for name in (sender, receiver):
        set_rate(nodes, name, None)
    take = subprocess.Popen(
        [*nodes.inside(receiver), sys.executable, FLOWS, "take", "7003", str(largest.size), str(taken_path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert take.stdout is not None
        take.stdout.readline()
        plan = planned(manifest, hosts_of(nodes, rate), [sender], [receiver])
        nodes.run(manifest, plan)  # leaves spare pages behind, as a pool that is in use has them
        ours: list[float] = []
        raw: list[float] = []
        for _ in range(rounds):
            ours.append(manifest.size / nodes.run(manifest, plan)[receiver] / 1e9)
            subprocess.run(
                [*nodes.inside(sender), sys.executable, FLOWS, "give", nodes.ip(receiver), "7003", str(path)],
                check=True,
            )
            raw.append(largest.size / float(take.stdout.readline()) / 1e9)
            print(f"  ours {ours[-1]:.2f}   sendfile {raw[-1]:.2f} GB/s", flush=True)
    finally:
        take.kill()
        take.wait()
        taken_path.unlink(missing_ok=True)
        for name in (sender, receiver):
            set_rate(nodes, name, rate)
    return statistics.median(ours), statistics.median(raw)


def shared_reads(nodes: Nodes, manifest: Manifest, rate: str, source: Path, work: Path) -> float:
    """Bytes read from a file system of its own ÷ size, when four nodes get a model that only it has."""
    image, mount = work / "shared.img", work / "shared"
    with image.open("wb") as file:
        file.truncate(manifest.size + manifest.size // 5 + (64 << 20))
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-F", str(image)], check=True)
    mount.mkdir()
    options = ["mount", "-o", "loop,noatime", str(image), str(mount)]
    subprocess.run(options, check=True)
    try:
        subprocess.run(["cp", "-r", str(source), str(mount / "model")], check=True)
        subprocess.run(["umount", str(mount)], check=True)  # so that nothing of it is in the page cache
        subprocess.run(options, check=True)
        device = next(
            row.split()[0] for row in Path("/proc/mounts").read_text().splitlines() if row.split()[1] == str(mount)
        )
        stat = Path("/sys/block", Path(device).name, "stat")
        before = int(stat.read_text().split()[2])
        targets = nodes.names[1:5]
        plan = planned(manifest, hosts_of(nodes, rate), [], targets, Storage(read_bps=8e9))
        nodes.run(manifest, plan, mount / "model")
        read = (int(stat.read_text().split()[2]) - before) * 512
    finally:
        subprocess.run(["umount", str(mount)], check=False)
        image.unlink()
        mount.rmdir()
    return read / manifest.size
