"""Figures of one node: loading from disk and from memory beside its peers, and the planner."""

from __future__ import annotations

import mmap
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from slurmext.staging.plan.fabric import Host, Rack, Replica, Request
from slurmext.staging.plan.multicast import plan_multicast
from slurmext.staging.readers import BLOCK_BYTES, THREADS, Buffer

LOAD = """
import sys, time
import {module}
{prepare}
started = time.perf_counter()
{work}
print(time.perf_counter() - started)
"""
OURS = LOAD.format(
    module="torch, slurmext.staging.loader as loader",
    prepare="",
    work="weights = loader.load(sys.argv[1], framework='torch'); all_ = [weights[name] for name in weights]",
)
LOAD_FILE = LOAD.format(
    module="torch, glob, safetensors.torch as st",
    prepare="",
    work="all_ = {}\nfor path in sorted(glob.glob(sys.argv[1] + '/*.safetensors')): all_.update(st.load_file(path))",
)
"""As a job uses it: tensors whose bytes are there. `load_file` maps the file, so its pages are touched too."""
TOUCHED = "\nfor tensor in (all_.values() if isinstance(all_, dict) else all_): tensor.view(torch.uint8).flatten()[::4096].sum()"
WARM = LOAD.format(
    module="{framework}, slurmext.staging.loader as loader",
    prepare="",
    work="weights = loader.load(sys.argv[1], framework='{framework}', roots=sys.argv[2]); first = weights[next(iter(weights))]; float(first.flatten()[0])",
)


def drop(paths: list[Path]) -> None:
    """Have the kernel forget these files."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def cold(directory: Path, rounds: int) -> dict[str, float]:
    """GB/s from disk: ours, safetensors' load_file, and the disk itself; medians, in turns."""
    paths = sorted(directory.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in paths)
    rates: dict[str, list[float]] = {"raw": [], "ours": [], "load_file": []}
    for _ in range(rounds):
        programs = [("ours", OURS), ("load_file", LOAD_FILE)]
        for name, program in programs if len(rates["raw"]) % 2 else reversed(programs):
            drop(paths)
            touched = program.replace("\nprint(", TOUCHED + "\nprint(")
            done = subprocess.run(
                [sys.executable, "-c", touched, str(directory)], check=True, capture_output=True, text=True
            )
            rates[name].append(size / float(done.stdout) / 1e9)
        drop(paths)
        rates["raw"].append(size / raw_seconds(paths) / 1e9)
        print("  " + "   ".join(f"{name} {values[-1]:.2f}" for name, values in rates.items()) + " GB/s", flush=True)
    return {name: statistics.median(values) for name, values in rates.items()}


def raw_seconds(paths: list[Path]) -> float:
    """Seconds to read files past the page cache, blocks and threads as ours, into memory that is reused."""
    blocks = [(path, at) for path in paths for at in range(0, path.stat().st_size, BLOCK_BYTES)]
    descriptors = {path: os.open(path, os.O_RDONLY | os.O_DIRECT) for path in paths}
    rooms = [Buffer([BLOCK_BYTES]).view for _ in range(THREADS)]
    for room in rooms:
        room[:: mmap.PAGESIZE] = bytes(len(room[:: mmap.PAGESIZE]))
    started = time.perf_counter()

    def read(number: int) -> None:
        view = rooms[number][:BLOCK_BYTES]
        for path, at in blocks[number::THREADS]:
            os.preadv(descriptors[path], [view], at)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(read, range(THREADS)))
    taken = time.perf_counter() - started
    for descriptor in descriptors.values():
        os.close(descriptor)
    return taken


def warm_ms(reference: str, root: Path, rounds: int) -> dict[str, float]:
    """Milliseconds from a staged model's name to the first tensor's first number, by framework."""
    told: dict[str, float] = {}
    for framework in ("numpy", "torch"):
        program = WARM.replace("{framework}", framework)
        taken = [
            float(
                subprocess.run(
                    [sys.executable, "-c", program, reference, str(root)], check=True, capture_output=True, text=True
                ).stdout
            )
            for _ in range(rounds)
        ]
        told[framework] = statistics.median(taken) * 1000
    return told


def planner_ms(rounds: int) -> float:
    """Milliseconds to plan 140 GB to 1,000 hosts in 32 racks, two of which have it, with unequal loads."""
    rate = 1e11
    hosts = tuple(
        Host(name=f"n{at:04}", tx_bps=rate, rx_bps=rate, rack=f"r{at // 32:02}",
             tx_used_bps=rate * (at * 7 % 5 == 0) / 2, rx_used_bps=rate * (at * 11 % 7 == 0) / 5)
        for at in range(1000)
    )  # fmt: skip
    request = Request(
        size_bytes=140 << 30,
        hosts=hosts,
        racks=tuple(Rack(name=f"r{at:02}", up_bps=16 * rate, down_bps=16 * rate) for at in range(32)),
        replicas=(Replica(host="n0000"), Replica(host="n0500")),
        targets=tuple(host.name for host in hosts),
    )
    taken: list[float] = []
    for _ in range(rounds):
        started = time.perf_counter()
        plan = plan_multicast(request)
        taken.append((time.perf_counter() - started) * 1000)
        assert len(plan.assignments) == 998
    return statistics.median(taken)
