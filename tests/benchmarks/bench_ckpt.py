"""What a checkpoint costs: `python tests/benchmarks/bench_ckpt.py [--quick] [--gb 1.08]`.

slurmext's engine beside torch.save and PyTorch's distributed checkpoint (DCP: save, and its asynchronous modes thread,
cached stager, process), in turns in one run. Ratios are of figures taken right after each other, the median over all
rounds. The last line is JSON:

    stall_s                 seconds that training stands still for a save
    floor_s                 two threads copy the same bytes into memory that is there already
    stall_over_floor
    stall_over_best_other   by the least stall of torch.save and DCP's ways
    durable_over_dcp_best   time until on disk, by the least of DCP's ways
    write_over_raw          bytes per second once the copy is over, by those of as many parallel direct writers (fio,
                            else dd)
    write_over_raw_huge     by those of writers out of huge pages, which is what this disk can do at most
    lost_s                  training time lost by one checkpoint, under a loop that keeps all cores busy
    lost_over_dcp_process
    restore_over_torch      cold, by torch.load
    confirm_extra_ms        4 processes: from the signal to rank 0's confirmation, beyond the slowest one's copy and write
    goodput_gap_pct         what a simulated month of `auto` loses against Young/Daly with the true costs and rate
    goodput_gap_if_twice_pct  the same with every interval twice as long: what the simulation can tell apart
    peak_snapshots          the most held at a time
    memory_over_state       memory they take
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import torch
from ckpt import growth, idle, ranks, training
from ckpt.state import GB, flat, nbytes, new_state
from ckpt.ways import one_process_group

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
        result = idle.measure(place, state, rounds, new_state(size, seed=1))
        result |= training.measure(place, state, 1 if options.quick else 4)
        result |= measure_signal(place, size, 3 if options.quick else 9)
        del state
        if not options.quick:
            growth.plot(growth.measure(place))
        result |= simulate_goodput(8 if options.quick else 40)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        end_group()
    print(json.dumps(result))
    return 0


def measure_signal(place: Path, size: float, times: int) -> dict[str, float]:
    """Four processes, a quarter of the state each: from the signal to the agent's news, less copy and write."""
    found = ranks.measure(place / "ranks", int(size), world=4, times=times)
    print(f"\nsignal to confirmed, 4 processes: {found['confirmed_s']:.3f} s, copy and write of the slowest "
          f"{found['copy_and_write_s']:.3f} s, steps of {ranks.STEP_S:g} s; the rest {found['extra_ms']:.0f} ms "
          f"(least {found['least_extra_ms']:.0f})")  # fmt: skip
    return {"confirm_extra_ms": round(found["extra_ms"], 1)}


def simulate_goodput(seeds: int) -> dict[str, float]:
    """A month with a failure every 3 hours, costs drifting."""
    found = goodput(seeds=range(seeds))
    twice = goodput(seeds=range(seeds), stretch=2.0)
    fixed = "   ".join(f"{every:g} s {100 * part:.2f}" for every, part in found.fixed.items())
    print(f"\ngoodput of a month, MTBF 3 h, {seeds} months drawn, % of the time: auto {100 * found.auto:.3f}   "
          f"Young/Daly with perfect knowledge {100 * found.optimum:.3f}   auto, but half as often "
          f"{100 * twice.auto:.3f}   fixed: {fixed}")  # fmt: skip
    return {"goodput_gap_pct": round(100 * found.gap, 4), "goodput_gap_if_twice_pct": round(100 * twice.gap, 4)}


if __name__ == "__main__":
    sys.exit(main())
