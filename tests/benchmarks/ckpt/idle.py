"""Stall, time until durable and cold restore of every way while nothing else runs, in turns, beside the machine's limits.

A shared machine is never as fast twice. So each figure of ours is divided by what it is compared with from the same
moment, and the quotient's median over all rounds counts.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch

from ckpt.limits import WRITERS, Floor, RawDisk
from ckpt.state import GB, State, change, flat, nbytes
from ckpt.ways import WAYS, DcpSave, Ours, TorchSave, Way, drop_cached, timed

RESTORED = (Ours, TorchSave, DcpSave)
PAIRS = 3
"""Saves of ours in each round, each right beside a copy in memory and a raw write."""
LIMIT_S = 130.0
LEAST_ROUNDS = 3
Figures = dict[type[Way], list[float]]


class Idle:
    """Rounds over all ways. `into`: a state to restore to."""

    def __init__(self, place: Path, state: State, into: State) -> None:
        self._state, self._into = state, into
        before = resident()
        self._ours = Ours(place / Ours.__name__, state)
        self._held = resident() - before
        self._others = [kind(place / kind.__name__, state) for kind in WAYS if kind is not Ours]
        self._floor = Floor(state)
        self.raw_disk = RawDisk(place)
        self.stall: Figures = defaultdict(list)
        self.durable: Figures = defaultdict(list)
        self.restore: Figures = defaultdict(list)
        self.floors: list[float] = []
        self.raw: list[float] = []
        self.huge: list[float] = []
        self.writes: list[float] = []
        self.ratios: dict[str, list[float]] = defaultdict(list)

    def run(self, rounds: int) -> None:
        """All of it; a round before the first warms up and is forgotten. On a slow machine rounds are left out."""
        end_s = time.monotonic() + LIMIT_S
        self._round()
        for figures in (self.stall, self.durable, self.restore, self.ratios):
            figures.clear()
        for values in (self.floors, self.raw, self.huge, self.writes):
            values.clear()
        for number in range(rounds):
            if number < LEAST_ROUNDS or time.monotonic() < end_s:
                self._round()

    def _round(self) -> None:
        stalls, durables = zip(*(self._pair() for _ in range(PAIRS)), strict=True)
        mine = self._cold(self._ours)
        stall, durable, cold = {}, {}, {}
        for way in self._others:
            stall[type(way)], durable[type(way)] = self._save(way)
            if type(way) in RESTORED:
                cold[type(way)] = self._cold(way)
        for kind, seconds in stall.items():
            self.stall[kind].append(seconds)
            self.durable[kind].append(durable[kind])
        by_dcp = min(seconds for kind, seconds in durable.items() if issubclass(kind, DcpSave))
        self.ratios["stall_over_best_other"].append(statistics.median(stalls) / min(stall.values()))
        self.ratios["durable_over_dcp_best"].append(statistics.median(durables) / by_dcp)
        self.ratios["restore_over_torch"].append(mine / cold[TorchSave])

    def _pair(self) -> tuple[float, float]:
        """Ours between two copies of the floor's, after a raw write."""
        size = nbytes(self._state)
        raw, huge = self.raw_disk.rate(size), self.raw_disk.rate_from_huge_pages(size)
        floor = self._floor.seconds()
        stall, durable = self._save(self._ours)
        floor = (floor + self._floor.seconds()) / 2
        saved = self._ours.under_way
        written = (saved.new_bytes - saved.early_bytes) / saved.write_s  # what was written behind the copy apart
        self.floors.append(floor)
        self.raw.append(raw)
        self.huge.append(huge)
        self.writes.append(written)
        self.stall[Ours].append(stall)
        self.durable[Ours].append(durable)
        self.ratios["stall_over_floor"].append(stall / floor)
        self.ratios["write_over_raw"].append(written / raw)
        self.ratios["write_over_raw_huge"].append(written / huge)
        return stall, durable

    def _save(self, way: Way) -> tuple[float, float]:
        """(stall, durable) of a save of a state that a step has changed everywhere."""
        change(self._state)
        way.next()
        os.sync()  # removing the last one is not this one's work
        started = time.perf_counter()
        way.save()
        stall = time.perf_counter() - started
        way.finish()
        durable = time.perf_counter() - started
        way.settle()
        return stall, durable

    def _cold(self, way: Way) -> float:
        drop_cached(way.folder)
        seconds = timed(lambda: way.restore(self._into))
        self.restore[type(way)].append(seconds)
        return seconds

    def check(self) -> None:
        """What is restored is what was saved."""
        self._ours.next()
        self._ours.save()
        self._ours.restore(self._into)
        pairs = zip(flat(self._state).values(), flat(self._into).values(), strict=True)
        if any(not torch.equal(saved, found) for saved, found in pairs):
            raise SystemExit("the restored state differs from the saved one")

    def close(self) -> int:
        """Remove everything; returns the most snapshots that were held at a time."""
        for way in (self._ours, *self._others):
            way.close()
        return self._ours.engine.peak_snapshots

    def show(self) -> None:
        """The table."""
        print(f"\n{'idle machine, seconds':<28}{'stall':>16}{'durable':>16}{'cold restore':>16}   "
              f"median (least) of {len(self.restore[Ours])} rounds")  # fmt: skip
        print(f"{'floor (2 threads copy)':<28}{both(self.floors)}")
        for kind in WAYS:
            print(f"{kind.name:<28}{both(self.stall[kind])}{both(self.durable[kind])}{both(self.restore[kind])}")
        print(f"memory slurmext holds for two snapshots: {self.memory_over_state:.2f} times the state")
        raw, huge, written = (statistics.median(values) / GB for values in (self.raw, self.huge, self.writes))
        print(f"disk, GB/s, {WRITERS} writers, direct: {self.raw_disk.tool} {raw:.2f}, from huge pages {huge:.2f}, "
              f"slurmext with checksums {written:.2f}")  # fmt: skip

    @property
    def memory_over_state(self) -> float:
        """What two snapshots take, by the state's size."""
        return self._held / nbytes(self._state)


def measure(place: Path, state: State, rounds: int, into: State) -> dict[str, float]:
    """The figures; prints the table."""
    idle = Idle(place, state, into)
    idle.run(rounds)
    idle.check()
    peak = idle.close()
    idle.show()
    return {
        "stall_s": round(statistics.median(idle.stall[Ours]), 4),
        "floor_s": round(statistics.median(idle.floors), 4),
        **{name: round(statistics.median(values), 3) for name, values in idle.ratios.items()},
        "peak_snapshots": peak,
        "memory_over_state": round(idle.memory_over_state, 2),
    }


def both(values: Iterable[float]) -> str:
    """Median and least, for a table."""
    found = list(values)
    return f"{statistics.median(found):8.3f} {f'({min(found):.3f})':>7}" if found else " " * 16


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
