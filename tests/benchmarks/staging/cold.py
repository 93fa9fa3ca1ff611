"""Loading from disk: a node's agent into its pool while the job takes the tensors, beside peers and the bare disk."""

from __future__ import annotations

import contextlib
import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Self

from slurmext.staging.manifest import Manifest
from slurmext.staging.readers import BLOCK_BYTES, THREADS
from staging.nodes import ask, place

TOUCH = "tensor.view(torch.uint8).flatten()[::4096].sum()"
"""As a job uses it: tensors whose bytes are there. `load_file` maps the file, so its pages are touched."""
PROGRAM = """
import sys, time, torch
{imports}
print("ready", flush=True)
sys.stdin.readline()
started = time.perf_counter()
{work}
print(time.perf_counter() - started, flush=True)
"""
STREAM = PROGRAM.format(
    imports="import slurmext.staging as staging",
    work=f"for name, tensor in staging.stream(sys.argv[1], framework='torch', roots=sys.argv[2]): {TOUCH}",
)
DIRECT = PROGRAM.format(
    imports="import slurmext.staging as staging",
    work=f"for tensor in staging.load(sys.argv[1], framework='torch').values(): {TOUCH}",
)
LOAD_FILE = PROGRAM.format(
    imports="import glob, safetensors.torch as st",
    work="all_ = {}\nfor path in sorted(glob.glob(sys.argv[1] + '/*.safetensors')): all_.update(st.load_file(path))\n"
    f"for tensor in all_.values(): {TOUCH}",
)


class Agent:
    """One staging engine with a disk tier at `work` and its pool at `room`."""

    def __init__(self, work: Path, room: Path, mib: int) -> None:
        self.disk, self.memory, self.control = work / "disk", room / "memory", work / "cold.sock"
        self._log = (work / "cold.log").open("w")
        self._mib = mib
        self._process = self._started()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end()
        self._log.close()

    def _started(self) -> subprocess.Popen[str]:
        room = str(2 * self._mib)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "slurmext.agent.staging.solo", "--node", "n1", "--control", str(self.control),
             "--memory", str(self.memory), "--disk", str(self.disk), "--mib", room, "--spare-mib", room],
            stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait()

    def stage(self, manifest: Manifest, source: Path, tier: str) -> None:
        """Begin to have the model in a tier; the disk tier is preferred to the source."""
        ask(self.control, "stage", **place(manifest), fingerprint=manifest.fingerprint(), tier=tier,
            sources=[["(storage)", str(source), 1, None]])  # fmt: skip

    def wait(self, manifest: Manifest, tier: str) -> None:
        """Until all of it is there."""
        if not ask(self.control, "stage_wait", timeout_s=300, tier=tier, **place(manifest))["complete"]:
            raise SystemExit(f"not staged: {ask(self.control, 'stage_progress')}")

    def begin(self, manifest: Manifest, source: Path) -> None:
        """A disk tier that has the model, of which an agent before this one left nothing in the page cache, and a pool
        that was used before.
        """
        path = self.control.with_name("manifest")
        path.write_bytes(manifest.dump())
        for tier in ("disk", "memory"):
            ask(self.control, "stage_learn", path=str(path))
            self.stage(manifest, source, tier)
            self.wait(manifest, tier)
            if tier == "disk":
                self._end()
                self._process = self._started()
        self.evict(manifest)

    def evict(self, manifest: Manifest) -> None:
        """Out of memory."""
        ask(self.control, "stage_evict", **place(manifest))


def cold(directory: Path, manifest: Manifest, work: Path, room: Path, rounds: int) -> dict[str, float]:
    """GB/s from disk to tensors: ours, without an agent, safetensors' load_file, the disk itself; medians, in turns.

    The disk itself is measured on the files that ours are read from, the agent's, into ordinary memory as other programs
    have it, and into memory in large pages such as the pool's (`raw_pool`); the others read the model's own.
    """
    own = sorted(directory.glob("*.safetensors"))
    size = sum(path.stat().st_size for path in own)
    rates: dict[str, list[float]] = {"raw": [], "ours": [], "direct": [], "load_file": [], "raw_pool": []}
    with Agent(work, room, (size >> 20) + 256) as agent:
        agent.begin(manifest, directory)
        paths = sorted(agent.disk.glob("*/*/*.safetensors"))
        for number in range(rounds):
            for name in (list(rates), list(reversed(rates)))[number % 2]:
                drop([*own, *paths])
                if name == "raw":
                    taken_s = raw_seconds(paths)
                elif name == "raw_pool":
                    with (room / "raw").open("w+b") as file:
                        taken_s = raw_seconds(paths, file)
                elif name == "ours":
                    with job(STREAM, str(manifest.key), str(agent.memory)) as go:
                        started = time.perf_counter()
                        agent.stage(manifest, directory, "memory")
                        go()
                        taken_s = time.perf_counter() - started
                    agent.evict(manifest)
                else:
                    with job(DIRECT if name == "direct" else LOAD_FILE, str(directory)) as go:
                        taken_s = go()
                rates[name].append(size / taken_s / 1e9)
            print("  " + "   ".join(f"{name} {values[-1]:.2f}" for name, values in rates.items()) + " GB/s", flush=True)
    return {name: statistics.median(values) for name, values in rates.items()}


@contextlib.contextmanager
def job(program: str, *arguments: str) -> Iterator[Callable[[], float]]:
    """A process that has imported what it needs; calling it lets it load, and gives the seconds that took."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()

    def go() -> float:
        print(file=process.stdin, flush=True)
        return float(process.stdout.readline())

    try:
        yield go
    finally:
        process.stdin.close()
        if process.wait() != 0:
            raise SystemExit("a job that loads failed")


def drop(paths: list[Path]) -> None:
    """Have the kernel forget these files."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def raw_seconds(paths: list[Path], into: BinaryIO | None = None) -> float:
    """Seconds to read files past the page cache, blocks and threads as ours, into memory (of a file) that is reused."""
    blocks = [(path, at) for path in paths for at in range(0, path.stat().st_size, BLOCK_BYTES)]
    descriptors = {path: os.open(path, os.O_RDONLY | os.O_DIRECT) for path in paths}
    if into is None:
        rooms = [memoryview(mmap.mmap(-1, BLOCK_BYTES)) for _ in range(THREADS)]
    else:
        into.truncate(THREADS * BLOCK_BYTES)
        whole = memoryview(mmap.mmap(into.fileno(), THREADS * BLOCK_BYTES))
        rooms = [whole[at : at + BLOCK_BYTES] for at in range(0, len(whole), BLOCK_BYTES)]
    for room in rooms:
        room[:: mmap.PAGESIZE] = bytes(len(room[:: mmap.PAGESIZE]))

    def read(number: int) -> None:
        for path, at in blocks[number::THREADS]:
            os.preadv(descriptors[path], [rooms[number]], at)

    started = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(read, range(THREADS)))
    taken = time.perf_counter() - started
    for descriptor in descriptors.values():
        os.close(descriptor)
    return taken
