"""What a checkpoint costs: `python tests/benchmarks/bench_ckpt.py [--quick] [--gb 1.08]`.

slurmext's engine beside torch.save and PyTorch's distributed checkpoint (DCP: save, and its asynchronous modes thread,
cached stager, process), in turns in one run. The last line is JSON: stall_s (training stands still, median), floor_s (two
threads copy the same bytes into memory that is there already), stall_over_floor, durable_over_dcp_best (time until on
disk, by the best of DCP's ways), write_over_raw (our bytes per second on disk by dd's with oflag=direct),
lost_over_dcp_process (training time lost by one checkpoint under a loop that keeps all cores busy), restore_over_torch
(cold, by torch.load), confirm_extra_ms (4 processes: from the signal to the last one's confirmation, beyond copy and write),
goodput_gap_pct (what a simulated month of `auto` loses against Young/Daly with the true costs), peak_snapshots (the most
held at a time), memory_over_state (memory they take).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from ckpt import growth, ranks
from ckpt.state import GB, Training, nbytes, new_state
from ckpt.ways import WAYS, Ours, Way, drop_cached, flat, one_process_group, timed

from slurmext.checkpoint.engine.buffers import Buffer
from slurmext.checkpoint.engine.crew import Crew
from slurmext.checkpoint.goodput import goodput


def main() -> int:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small state, few rounds, no growth; in under a minute")
    parser.add_argument("--gb", type=float, help="size of the state [1.08; quick 0.2]")
    parser.add_argument("--rounds", type=int, help="of each way [5; quick 2]")
    parser.add_argument("--dir", type=Path, help="on the disk to measure [the temporary directory]")
    options = parser.parse_args()
    size = (options.gb or (0.2 if options.quick else 1.08)) * GB
    rounds = options.rounds or (2 if options.quick else 5)
    place = Path(tempfile.mkdtemp(prefix="slurmext-bench-ckpt-", dir=options.dir))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that gigabytes do not stay behind
    end_group = one_process_group(place)
    try:
        state = new_state(size)
        print(f"{nbytes(state) / GB:.3f} GB in {len(flat(state))} tensors, {torch.get_num_threads()} threads, {place}")
        result = measure_idle(place, state, rounds, new_state(size, seed=1))
        result |= measure_training(place, state, 2 if options.quick else 3)
        result |= measure_signal(place, size)
        del state
        if not options.quick:
            growth.plot(growth.measure(place))
        result |= simulate_goodput(2 if options.quick else 8)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        end_group()
    print(json.dumps(result))
    return 0


def measure_idle(place: Path, state: dict, rounds: int, into: dict) -> dict[str, float]:
    """Stall, time until durable and restore of every way, nothing else running; floor and raw disk beside them."""
    floor = Floor(state)
    before = resident()
    ours = Ours(place / Ours.__name__, state)
    held = resident() - before
    ways = {kind: ours if kind is Ours else kind(place / kind.__name__, state) for kind in WAYS}
    stall: dict[type[Way], list[float]] = {kind: [] for kind in WAYS}
    durable: dict[type[Way], list[float]] = {kind: [] for kind in WAYS}
    restore: dict[type[Way], list[float]] = {kind: [] for kind in WAYS}
    floors: list[float] = []
    raw: list[float] = []
    writes: list[float] = []
    for number in range(rounds + 1):  # the first warms up
        floors.append(floor.seconds())
        raw.append(raw_write_rate(place, nbytes(state)))
        for kind, way in ways.items():
            for tensor in flat(state).values():
                tensor.add_(1)  # a training step changes everything
            way.next()
            started = time.perf_counter()
            way.save()
            stall[kind].append(time.perf_counter() - started)
            way.finish()
            durable[kind].append(time.perf_counter() - started)
            if isinstance(way, Ours):
                writes.append(nbytes(state) / way.ticket.write_s)
            if kind in RESTORED and number:
                if isinstance(way, Ours):
                    way.engine.wait()
                drop_cached(way.folder)
                restore[kind].append(timed(lambda way=way: way.restore(into)))
    check(ways[Ours], state, into)
    peak = ways[Ours].engine.peak_snapshots
    for way in ways.values():
        way.close()
    middle = {kind: (median(stall[kind]), median(durable[kind])) for kind in WAYS}
    print(f"\n{'idle machine, seconds':<28}{'stall':>8}{'durable':>9}{'cold restore':>14}")
    print(f"{'floor (2 threads copy)':<28}{median(floors):8.3f}")
    for kind in WAYS:
        cold = f"{statistics.median(restore[kind]):14.3f}" if restore[kind] else ""
        print(f"{kind.name:<28}{middle[kind][0]:8.3f}{middle[kind][1]:9.3f}{cold}")
    print(f"memory slurmext holds for two snapshots: {held / nbytes(state):.2f} times the state")
    print(f"disk, GB/s: dd oflag=direct {median(raw) / GB:.2f}, slurmext {median(writes) / GB:.2f}")
    best = min(middle[kind][1] for kind in WAYS if kind.name.startswith("DCP"))
    return {
        "stall_s": round(middle[Ours][0], 4),
        "floor_s": round(median(floors), 4),
        "stall_over_floor": round(middle[Ours][0] / median(floors), 3),
        "stall_over_best_other": round(middle[Ours][0] / min(middle[k][0] for k in WAYS if k is not Ours), 3),
        "durable_over_dcp_best": round(middle[Ours][1] / best, 3),
        "write_over_raw": round(median(writes) / median(raw), 3),
        "restore_over_torch": round(statistics.median(restore[Ours]) / statistics.median(restore[WAYS[1]]), 3),
        "peak_snapshots": peak,
        "memory_over_state": round(held / nbytes(state), 2),
    }


RESTORED = set(WAYS[:3])


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def median(values: list[float]) -> float:
    """Without the first, which warmed up."""
    return statistics.median(values[1:])


def check(way: Way, state: dict, into: dict) -> None:
    """What is restored is what was saved."""
    way.next()
    way.save()
    way.restore(into)
    if any(not torch.equal(a, b) for a, b in zip(flat(state).values(), flat(into).values(), strict=True)):
        raise SystemExit("the restored state differs from the saved one")


class Floor:
    """The least a snapshot can take: two threads copy the tensors into memory that is mapped and in huge pages."""

    def __init__(self, state: dict) -> None:
        self._tensors = list(flat(state).values())
        self._buffer = Buffer(nbytes(state) + (1 << 20), Crew(2))
        at, self._parts = 0, ([], [])
        for tensor in self._tensors:
            self._parts[0 if at * 2 < nbytes(state) else 1].append(
                (self._buffer.address + at, tensor.data_ptr(), tensor.nbytes)
            )
            at += -(-tensor.nbytes // 64) * 64

    def seconds(self) -> float:
        """One copy of everything."""
        copy = ctypes.CDLL(None).memcpy
        copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

        def work(parts: list[tuple[int, int, int]]) -> None:
            for part in parts:
                copy(*part)

        started = time.perf_counter()
        other = threading.Thread(target=work, args=(self._parts[1],))
        other.start()
        work(self._parts[0])
        other.join()
        return time.perf_counter() - started


def raw_write_rate(place: Path, size: int) -> float:
    """Bytes per second of dd past the page cache, synced at the end."""
    target = place / "raw"
    count = max(size >> 24, 1)
    command = ["dd", "if=/dev/zero", f"of={target}", "bs=16M", f"count={count}", "oflag=direct", "conv=fsync"]
    try:
        seconds = timed(lambda: subprocess.run(command, check=True, capture_output=True))
    except subprocess.CalledProcessError:  # a file system without direct I/O
        seconds = timed(lambda: subprocess.run([*command[:-2], command[-1]], check=True, capture_output=True))
    target.unlink()
    return (count << 24) / seconds


def measure_training(place: Path, state: dict, rounds: int) -> dict[str, float]:
    """Training time lost by one checkpoint: as many steps with and without it, in turns, all cores busy."""
    training = Training(state)
    step_s = timed(lambda: [training.step() for _ in range(20)]) / 20
    lost: dict[type[Way], list[float]] = {kind: [] for kind in WAYS}
    print(f"\n{'under training, seconds':<28}{'stall':>8}{'durable':>9}{'lost':>8}   (step {step_s:.3f})")
    for kind in WAYS:
        way = kind(place / kind.__name__, state)
        stalls, durables = [], []
        for number in range(rounds + 1):
            way.next()
            taken = with_checkpoint(training, way, step_s)
            without = timed(lambda steps=taken[3]: [training.step() for _ in range(steps)])
            if number:
                lost[kind].append(taken[2] - without)
                stalls.append(taken[0])
                durables.append(taken[1])
        way.close()
        values = (statistics.median(stalls), statistics.median(durables), statistics.median(lost[kind]))
        print(f"{kind.name:<28}{values[0]:8.3f}{values[1]:9.3f}{values[2]:8.3f}", flush=True)
    ours, process = statistics.median(lost[Ours]), statistics.median(lost[WAYS[-1]])
    return {"lost_s": round(ours, 3), "lost_over_dcp_process": round(ours / process, 3)}


def with_checkpoint(training: Training, way: Way, step_s: float) -> tuple[float, float, float, int]:
    """(stall, durable, seconds of all steps with the save in them, steps); goes on until nothing of it is left."""
    steps = 0
    started = time.perf_counter()
    way.save()
    stall = time.perf_counter() - started
    durable: list[float] = []

    def watch() -> None:
        way.finish()
        durable.append(time.perf_counter() - started)

    watcher = threading.Thread(target=watch)
    watcher.start()
    while watcher.is_alive() or (isinstance(way, Ours) and not way.ticket.settled.is_set()) or steps < 1 / step_s:
        training.step()
        steps += 1
    return stall, durable[0], time.perf_counter() - started, steps


def measure_signal(place: Path, size: float) -> dict[str, float]:
    """Four processes, a quarter of the state each: from the signal to the agent's news, less copy and write."""
    found = ranks.measure(place / "ranks", int(size), world=4, times=6)
    print(f"\nsignal to confirmed, 4 processes: {found['confirmed_s']:.3f} s, copy and write of the slowest "
          f"{found['copy_and_write_s']:.3f} s, steps of {ranks.STEP_S:g} s")  # fmt: skip
    return {"confirm_extra_ms": round(found["extra_ms"], 1)}


def simulate_goodput(seeds: int) -> dict[str, float]:
    """A month with a failure every 3 hours, costs drifting."""
    found = goodput(seeds=range(seeds))
    fixed = "   ".join(f"{every:g} s {100 * part:.2f}" for every, part in found.fixed.items())
    print(f"\ngoodput of a month, MTBF 3 h, % of the time: auto {100 * found.auto:.2f}   Young/Daly with perfect knowledge "
          f"{100 * found.optimum:.2f}   fixed: {fixed}")  # fmt: skip
    return {"goodput_gap_pct": round(100 * found.gap, 3)}


if __name__ == "__main__":
    sys.exit(main())
